"""The child process: run one case after another, and say for each whether it held.

Each line of standard input is the folder of a case, as a JSON string. The answer is a line of JSON, an object with
"fault" (null, or the kind), "outcome" or "where" (a function) and "message". A child that dies or does not answer has
failed the case, too.
"""

from __future__ import annotations

import faulthandler
import gc
import importlib
import json
import os
import shutil
import sys
import tempfile
import traceback
import warnings
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from fuzz.case import Case
from fuzz.checks import FaultError
from fuzz.limits import ADDRESS_SPACE, MEMORY, limit_address_space, peak_memory, reset_peak

import minilm_np

PACKAGE = Path(minilm_np.__file__).parent


def run(folder: Path) -> dict[str, Any]:
    """Run a case in an empty current folder and return the answer."""
    case = Case.read(folder)
    area = importlib.import_module(f"fuzz.areas.{case.area}")
    scratch = Path(tempfile.mkdtemp(prefix="minilm-fuzz-"))
    os.chdir(scratch)
    gc.collect()
    base = reset_peak()
    try:
        outcome = area.run(case, scratch)
        growth = peak_memory() - base
        if growth > MEMORY:
            size = f"{case.size / 2**20:.1f} MB of input"
            return {
                "fault": "memory",
                "where": case.area,
                "message": f"{growth / 2**20:.0f} MB for {size}: {outcome}"[:600],
            }
        return {"fault": None, "outcome": outcome[:600]}
    except FaultError as fault:
        cause = fault.__cause__ or fault
        return {"fault": fault.kind, "where": _where(cause) or case.area, "message": str(fault)}
    except BaseException as error:  # tokenizers' PanicException, SystemExit, MemoryError and every other wrong kind
        message = (
            f"{type(error).__name__}: {str(error)[:400]}\n{''.join(traceback.format_tb(error.__traceback__)[-4:])}"
        )
        return {"fault": f"exception {type(error).__name__}", "where": _where(error), "message": message}
    finally:
        os.chdir("/")
        shutil.rmtree(scratch, ignore_errors=True)


def _where(error: BaseException) -> str:
    """Return the innermost function of the package that an exception has passed."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename.startswith(str(PACKAGE))]
    return f"{Path(frames[-1].filename).relative_to(PACKAGE)}:{frames[-1].name}" if frames else ""


def main() -> None:
    # Cases may use the standard streams and the libraries may print to them, so the requests and answers get others.
    requests, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    log = os.open(os.environ["FUZZ_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    faulthandler.enable(log)
    warnings.simplefilter("ignore")  # weights of 1e30 overflow, long texts are cut off
    for number, line in enumerate(requests):
        faulthandler.dump_traceback_later(0.95 * float(os.environ["FUZZ_HANG_SECONDS"]), file=log)
        answer = run(Path(json.loads(line)))
        faulthandler.cancel_dump_traceback_later()
        print(json.dumps(answer), file=answers, flush=True)
        if number == 0:  # the warm-up has imported and compiled everything
            limit_address_space(ADDRESS_SPACE)
            gc.freeze()  # gc.collect() before each case is then quick


if __name__ == "__main__":
    main()
