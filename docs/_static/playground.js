"use strict";

// The page to play with: what it computes, then what it draws.  Without a server and without a library.

const playground = (() => {
    const SAMPLES = 200;
    const BATCH = 20;
    const STEPS = 100;
    const START = [-1.0, 2.2];

    /** Uniform numbers of a linear congruential generator (Park and Miller 1988). */
    function generator(seed) {
        let state = seed;
        return () => {
            state = (state * 48271) % 2147483647;
            return state / 2147483647;
        };
    }

    /** Two columns with mean 0 and variance 1, always the same ones. */
    function columns() {
        const uniform = generator(7);
        const normal = () => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform());
        return [0, 1].map(() => {
            const values = Array.from({length: SAMPLES}, normal);
            const {mean, std} = statistics(values);
            return values.map((value) => (value - mean) / std);
        });
    }

    function statistics(values) {
        const mean = values.reduce((a, b) => a + b, 0) / values.length;
        const square = values.reduce((a, b) => a + (b - mean) ** 2, 0) / values.length;
        return {mean, std: Math.sqrt(square)};
    }

    /** Inputs, the second one scaled, and the target, to which both contribute equally. */
    function data(scale) {
        const [a, b] = columns();
        return {x: [a, b.map((value) => scale * value)], target: a.map((value, i) => value + b[i])};
    }

    /** Rows of a mini-batch, normalized with its own statistics if asked for. */
    function batchOf(x, rows, normalize) {
        return x.map((column) => {
            const values = rows.map((i) => column[i]);
            if (!normalize) return values;
            const {mean, std} = statistics(values);
            return values.map((value) => (value - mean) / Math.sqrt(std * std + 1e-5));
        });
    }

    /** Curvature of the risk, its eigenvalues and vectors, and the best weights, on the whole data set. */
    function risk(scale, normalize) {
        const {x, target} = data(scale);
        const all = target.map((_, i) => i);
        const [p, q] = batchOf(x, all, normalize);
        const mean = (u, v) => u.reduce((sum, value, i) => sum + value * v[i], 0) / u.length;
        const a = mean(p, p), b = mean(p, q), c = mean(q, q);
        const half = (a + c) / 2, root = Math.hypot((a - c) / 2, b);
        const values = [half + root, half - root];
        const angle = Math.atan2(2 * b, a - c) / 2;
        const determinant = a * c - b * b;
        const f = mean(p, target), g = mean(q, target);
        const best = [(c * f - b * g) / determinant, (a * g - b * f) / determinant];
        return {hessian: [a, b, c], values, angle, best, condition: values[0] / values[1]};
    }

    /** Path of mini-batch SGD over the two weights; it ends where it leaves all bounds. */
    function path(scale, lr, normalize) {
        const {x, target} = data(scale);
        const uniform = generator(11);
        let w = START.slice();
        const steps = [w];
        for (let step = 0; step < STEPS; step++) {
            const rows = Array.from({length: BATCH}, () => Math.floor(uniform() * SAMPLES));
            const [p, q] = batchOf(x, rows, normalize);
            const error = rows.map((row, i) => w[0] * p[i] + w[1] * q[i] - target[row]);
            const slope = (column) => column.reduce((sum, value, i) => sum + value * error[i], 0) / BATCH;
            w = [w[0] - lr * slope(p), w[1] - lr * slope(q)];
            steps.push(w);
            if (!(Math.hypot(...w) < 1e6)) break;
        }
        return steps;
    }

    /** Risk above the least one. */
    function excess(w, {hessian: [a, b, c], best}) {
        const u = w[0] - best[0], v = w[1] - best[1];
        return (a * u * u + 2 * b * u * v + c * v * v) / 2;
    }

    const ACTIVATIONS = {
        sigmoid: (z) => 1 / (1 + Math.exp(-z)),
        tanh: Math.tanh,
        relu: (z) => Math.max(z, 0),
        silu: (z) => z / (1 + Math.exp(-z)),
    };

    /** Normalized values, moved by gamma and beta, and what the activation makes of them. */
    function placed(name, gamma, beta) {
        const z = columns()[0].map((u) => gamma * u + beta);
        const y = z.map(ACTIVATIONS[name]);
        return {z, y, ...statistics(y)};
    }

    // ------------------------------------------------------------------------------------------

    /** Return the context of a canvas, cleared, in units of CSS pixels. */
    function context(canvas) {
        const ratio = window.devicePixelRatio || 1;
        const width = canvas.clientWidth, height = canvas.clientHeight;
        canvas.width = Math.round(width * ratio);
        canvas.height = Math.round(height * ratio);
        const c = canvas.getContext("2d");
        c.scale(ratio, ratio);
        c.font = "13px sans-serif";
        return {c, width, height};
    }

    /** Axes with ticks at whole numbers; returns the functions from values to pixels. */
    function axes({c, width, height}, [x0, x1], [y0, y1], [xLabel, yLabel]) {
        const left = 46, bottom = 36, top = 10, right = 10;
        const px = (x) => left + ((x - x0) / (x1 - x0)) * (width - left - right);
        const py = (y) => height - bottom - ((y - y0) / (y1 - y0)) * (height - bottom - top);
        c.strokeStyle = "#c4c4c4";
        c.fillStyle = "#333";
        c.lineWidth = 1;
        c.textAlign = "center";
        const step = (x1 - x0) / (width - left - right) * 38 > 1 ? 2 : 1;
        for (let x = Math.ceil(x0 / step) * step; x <= x1; x += step) {
            line(c, [[px(x), py(y0)], [px(x), py(y1)]]);
            c.fillText(String(x), px(x), height - bottom + 16);
        }
        c.textAlign = "right";
        for (let y = Math.ceil(y0); y <= y1; y += 1) {
            line(c, [[px(x0), py(y)], [px(x1), py(y)]]);
            c.fillText(String(y), left - 8, py(y) + 4);
        }
        c.textAlign = "center";
        c.fillText(xLabel, (left + width - right) / 2, height - 4);
        c.save();
        c.translate(13, (top + height - bottom) / 2);
        c.rotate(-Math.PI / 2);
        c.fillText(yLabel, 0, 0);
        c.restore();
        c.save();
        c.beginPath();
        c.rect(left, top, width - left - right, height - top - bottom);
        c.clip();
        return {px, py};
    }

    function line(c, points) {
        c.beginPath();
        points.forEach(([x, y], i) => (i ? c.lineTo(x, y) : c.moveTo(x, y)));
        c.stroke();
    }

    /** Two digits, with an exponent where there would be many zeros. */
    function readable(value) {
        return value < 1e-3 || value >= 1e3 ? value.toExponential(1) : value.toPrecision(2);
    }

    function drawRisk(canvas, scale, lr, normalize) {
        const paper = context(canvas), {c} = paper;
        const {px, py} = axes(paper, [-2, 4], [-2, 4], ["w₁", "w₂"]);
        const r = risk(scale, normalize);
        c.strokeStyle = "#777";
        for (let level = -6; level <= 8; level++) {
            const radius = Math.sqrt(2 * 4 ** level * 0.1);
            const points = Array.from({length: 121}, (_, k) => {
                const t = (2 * Math.PI * k) / 120;
                const u = (radius / Math.sqrt(r.values[0])) * Math.cos(t);
                const v = (radius / Math.sqrt(r.values[1])) * Math.sin(t);
                const cos = Math.cos(r.angle), sin = Math.sin(r.angle);
                return [px(r.best[0] + u * cos - v * sin), py(r.best[1] + u * sin + v * cos)];
            });
            line(c, points);
        }
        const steps = path(scale, lr, normalize);
        c.strokeStyle = "#d55e00";
        c.fillStyle = "#d55e00";
        c.lineWidth = 2;
        line(c, steps.map(([a, b]) => [px(a), py(b)]));
        for (const [a, b] of steps) {
            c.beginPath();
            c.arc(px(a), py(b), 2.5, 0, 2 * Math.PI);
            c.fill();
        }
        c.fillStyle = "#0072b2";
        c.beginPath();
        c.arc(px(r.best[0]), py(r.best[1]), 6, 0, 2 * Math.PI);
        c.fill();
        c.restore();
        const last = excess(steps[steps.length - 1], r);
        const end = last < 1e4 ? `excess risk after ${STEPS} steps ${readable(last)}` : "SGD diverges";
        return `condition number ${r.condition.toPrecision(3)}, ${end}`;
    }

    function drawActivation(canvas, name, gamma, beta) {
        const paper = context(canvas), {c} = paper;
        const {px, py} = axes(paper, [-8, 8], [-1.2, 3.2], ["γu + β", "activation"]);
        const curve = Array.from({length: 321}, (_, k) => -8 + k / 20);
        c.strokeStyle = "#555";
        c.lineWidth = 1.5;
        line(c, curve.map((z) => [px(z), py(ACTIVATIONS[name](z))]));
        const {z, y, mean, std} = placed(name, gamma, beta);
        c.fillStyle = "rgba(213, 94, 0, 0.6)";
        z.forEach((value, i) => {
            c.beginPath();
            c.arc(px(value), py(y[i]), 4, 0, 2 * Math.PI);
            c.fill();
        });
        c.restore();
        return `features: mean ${mean.toFixed(2)}, standard deviation ${std.toFixed(2)}`;
    }

    /** Connect the controls of the page. */
    function start() {
        const get = (id) => document.getElementById(id);
        if (!get("risk")) return;
        const power = (id) => 10 ** Number(get(id).value);
        const draw = () => {
            get("scale-value").textContent = power("scale").toPrecision(2);
            get("lr-value").textContent = power("lr").toPrecision(2);
            get("risk-text").textContent = drawRisk(get("risk"), power("scale"), power("lr"), get("norm").checked);
            const gamma = Number(get("gamma").value), beta = Number(get("beta").value);
            get("gamma-value").textContent = gamma.toFixed(1);
            get("beta-value").textContent = beta.toFixed(1);
            get("place-text").textContent = drawActivation(get("place"), get("activation").value, gamma, beta);
        };
        for (const control of document.querySelectorAll(".playground input, .playground select")) {
            control.addEventListener("input", draw);
        }
        window.addEventListener("resize", draw);
        draw();
    }

    document.addEventListener("DOMContentLoaded", start);
    return {data, risk, path, excess, placed, drawRisk, drawActivation};
})();
