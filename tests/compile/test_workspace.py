"""Arrays and records that compiled code takes as one argument."""

import pickle

import numpy as np
import pytest

from nbnorm.compile.kernels import kernel
from nbnorm.compile.workspace import Workspace, WorkspaceType

RECORD = np.dtype((np.record, np.dtype([("count", np.int64), ("factor", np.float64)], align=True)))


@kernel(cache=False)
def _scale_table(run):
    """Multiply the table with the factor, column by column, and return what is known of all members."""
    options, table = run.options, run.table
    for i in range(table.shape[0]):
        for j in range(table.shape[1]):
            table[i, j] = table[i, j] * options.factor + run.row[j]
    options.count += 1
    run.records[1].count = options.count
    return table.shape, table.size, table.strides, len(run.row), run.row[-1]


def _members(dtype):
    records = np.zeros(3, RECORD)
    options = np.zeros(1, RECORD)[0]
    options["factor"] = 2.0
    table = np.arange(6, dtype=dtype).reshape(2, 3)
    return {"options": options, "row": np.arange(3.0), "table": table, "records": records}


def _type(dtype):
    members = _members(dtype)
    return WorkspaceType({name: (member.dtype, member.ndim) for name, member in members.items()})


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64"])
def test_members_are_read_and_written_where_they_stand(dtype):
    members = _members(dtype)
    table = members["table"]
    expected = (table * 2 + np.arange(3)).astype(dtype)
    got = _scale_table(Workspace(_type(dtype), **members))
    item = table.itemsize
    assert got == ((2, 3), 6, (3 * item, item), 3, 2.0)
    np.testing.assert_array_equal(table, expected)
    assert members["options"]["count"] == 1
    assert members["records"]["count"].tolist() == [0, 1, 0]


def test_workspaces_of_a_type_share_compiled_code_and_the_type_is_pickled():
    kind = _type("float32")
    assert pickle.loads(pickle.dumps(kind)) == kind == _type("float32") != _type("float64")


def test_empty_and_read_only_arrays_are_members():
    members = _members("float32") | {"table": np.zeros((0, 3), np.float32)}
    members["row"].flags.writeable = False
    assert _scale_table(Workspace(_type("float32"), **members)) == ((0, 3), 0, (12, 4), 3, 2.0)


@pytest.mark.parametrize(
    ("name", "member"),
    [
        ("table", np.zeros((2, 3))),
        ("table", np.zeros(6, np.float32)),
        ("table", np.zeros((4, 3), np.float32)[::2]),
        ("row", np.zeros(1)[0]),
        ("options", np.zeros(1, np.dtype([("count", np.int64)]))[0]),
    ],
)
def test_members_of_another_type_are_refused(name, member):
    with pytest.raises(TypeError, match=f"{name} must be C-contiguous"):
        Workspace(_type("float32"), **_members("float32") | {name: member})


def test_members_of_other_names_are_refused():
    with pytest.raises(TypeError, match="members must be"):
        Workspace(_type("float32"), **_members("float32"), more=np.zeros(1))
