"""What a user sees of a mistake."""

import pytest

from t5jax.cli import main


def error_of(capsys, *words) -> str:
    """The one `error:` line that a command ends with, and nothing else of an exception."""
    with pytest.raises(SystemExit) as exit:
        main([str(word) for word in words])
    assert exit.value.code == 2
    out, err = capsys.readouterr()
    lines = [x for x in err.splitlines() if x.startswith("error:")]
    assert len(lines) == 1 and "Traceback" not in out + err
    return lines[0]
