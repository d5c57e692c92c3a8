"""The interactive page, in headless Chromium: what it computes and that it draws."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parent.parent / "docs" / "_static" / "playground.js"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PAGE = """<!DOCTYPE html><html><body>
<canvas id="canvas" style="width: 400px; height: 300px"></canvas>
<script src="playground.js"></script>
<script>
const canvas = document.getElementById("canvas"), found = {}, inked = () => {
    const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
    const colours = new Set();
    let count = 0;
    for (let i = 0; i < pixels.length; i += 4) if (pixels[i + 3] > 200) {
        count++;
        colours.add([pixels[i], pixels[i + 1], pixels[i + 2]].join());
    }
    return {count, orange: colours.has("213,94,0"), blue: colours.has("0,114,178")};
};
found.data = playground.data(4);
for (const norm of [false, true]) {
    found["risk" + norm] = playground.risk(4, norm);
    found["path" + norm] = playground.path(4, 0.05, norm);
    found["text" + norm] = playground.drawRisk(canvas, 4, 0.05, norm);
    found["ink" + norm] = inked();
}
found.diverges = playground.drawRisk(canvas, 4, 1, false);
for (const name of ["sigmoid", "tanh", "relu", "silu"]) found[name] = playground.placed(name, 2, -1);
found.place = playground.drawActivation(canvas, "tanh", 2, -1);
found.placeInk = inked();
document.body.innerHTML = "<pre>" + JSON.stringify(found) + "</pre>";
</script></body></html>"""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    if CHROMIUM is None:
        pytest.skip("needs Chromium")
    folder = tmp_path_factory.mktemp("page")
    shutil.copy(SCRIPT, folder)
    (folder / "page.html").write_text(PAGE, "utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"]
    done = subprocess.run(
        [CHROMIUM, *options, "--dump-dom", (folder / "page.html").as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
    )
    text = re.search(r"<pre>(.*)</pre>", done.stdout, flags=re.DOTALL)
    assert text is not None, done.stdout + done.stderr
    return json.loads(text[1])


def test_data_are_standard_but_for_the_scale(found):
    x = np.array(found["data"]["x"])
    np.testing.assert_allclose(x.mean(axis=1), 0, atol=1e-12)
    np.testing.assert_allclose(x.std(axis=1), [1, 4], rtol=1e-12)
    np.testing.assert_allclose(found["data"]["target"], x[0] + x[1] / 4, rtol=1e-10)


@pytest.mark.parametrize("norm", ["false", "true"])
def test_risk_and_path(norm, found):
    x, target = np.array(found["data"]["x"]), np.array(found["data"]["target"])
    if norm == "true":
        x = (x - x.mean(axis=1, keepdims=True)) / np.sqrt(x.var(axis=1, keepdims=True) + 1e-5)
    second = x @ x.T / x.shape[1]
    risk = found[f"risk{norm}"]
    values, vectors = np.linalg.eigh(second)
    np.testing.assert_allclose(risk["values"], values[::-1], rtol=1e-9)
    assert risk["condition"] == pytest.approx(np.linalg.cond(second))
    direction = [np.cos(risk["angle"]), np.sin(risk["angle"])]
    assert abs(vectors[:, -1] @ direction) == pytest.approx(1)
    np.testing.assert_allclose(risk["best"], np.linalg.solve(second, x @ target / x.shape[1]), rtol=1e-9)
    path = np.array(found[f"path{norm}"])
    assert path.shape == (101, 2)
    gap = path - risk["best"]
    excess = np.einsum("ki,ij,kj->k", gap, second, gap) / 2
    assert excess[-1] < 0.01 * excess[0]
    assert f"condition number {np.linalg.cond(second):.3g}" in found[f"text{norm}"]


def test_a_large_rate_diverges(found):
    assert found["diverges"].endswith("SGD diverges")


@pytest.mark.parametrize("name", ["sigmoid", "tanh", "relu", "silu"])
def test_activation(name, found):
    from nbnorm import activation_forward

    z = 2 * np.array(found["data"]["x"][0]) - 1
    y = activation_forward(z, name)
    np.testing.assert_allclose(found[name]["z"], z, rtol=1e-12)
    np.testing.assert_allclose(found[name]["y"], y, rtol=1e-9, atol=1e-12)
    assert (found[name]["mean"], found[name]["std"]) == pytest.approx((y.mean(), y.std()))


def test_it_draws(found):
    for ink in (found["inkfalse"], found["inktrue"]):
        assert ink["count"] > 2000
        assert ink["orange"]
        assert ink["blue"]
    assert found["placeInk"]["count"] > 2000
