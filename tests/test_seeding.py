from cispo.seeding import stream_seed


def test_a_stream_is_a_function_of_seed_and_name() -> None:
    assert stream_seed(1, "rollout", 3) == stream_seed(1, "rollout", 3)


def test_streams_of_other_names_or_seeds_differ() -> None:
    keys = [(s, n, i) for s in range(5) for n in ("rollout", "init", "data") for i in range(50)]
    seeds = {stream_seed(seed, name, index) for seed, name, index in keys}
    assert len(seeds) == len(keys)


def test_a_number_and_its_text_name_different_streams() -> None:
    assert stream_seed(0, 1) != stream_seed(0, "1")


def test_names_are_not_run_together() -> None:
    assert stream_seed(0, "a", "b") != stream_seed(0, "ab")


def test_a_seed_fits_torch_and_numpy() -> None:
    assert all(0 <= stream_seed(seed, "x") < 2**63 for seed in range(1000))


def test_the_streams_of_a_release_stay_what_they_were() -> None:
    # sha256 of "0\0'rollout'\0" + "1", first 8 bytes, big-endian, shifted right by one
    import hashlib

    digest = hashlib.sha256(b"0\x00'rollout'\x001").digest()
    assert stream_seed(0, "rollout", 1) == int.from_bytes(digest[:8], "big") >> 1
