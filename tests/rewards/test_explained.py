from rewards.explained import MOST_CHARACTERS, failed_tests, shortened


def test_a_long_text_loses_its_middle() -> None:
    text = "a" * 50 + "b" * 100 + "c" * 50
    cut = shortened(text, 40)
    assert cut == "a" * 16 + "\n[...]\n" + "c" * 16
    assert shortened(text, 200) is text


def test_what_a_program_puts_out_never_grows_beyond_its_bound() -> None:
    failed = [(number, 1, b"\xff" * 10**6) for number in range(50)]
    text = failed_tests(failed, 60, outcome="exited", stderr=b"x" * 10**6)
    assert len(text) <= MOST_CHARACTERS
    assert text.startswith("50 of 60 tests failed; the run: exited\ntest 1: exit code 1")
