"""Ranks of a node are consecutive, and the fullest node comes first."""

from cispo.learner.seats import seating


def test_ranks_go_node_after_node_the_fullest_first() -> None:
    nodes = ["b", "a", "c", "a", "b", "a"]
    bundles = seating(nodes)
    assert [nodes[bundle] for bundle in bundles] == ["a", "a", "a", "b", "b", "c"]
    assert bundles == (1, 3, 5, 0, 4, 2)


def test_of_equally_full_nodes_the_first_stays_first() -> None:
    assert seating(["y", "x", "y", "x"]) == (0, 2, 1, 3)
