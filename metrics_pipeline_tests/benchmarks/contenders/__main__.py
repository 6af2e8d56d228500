"""One contender in a process of its own: `python -m metrics_pipeline_tests.benchmarks.contenders NAME DAY`.

METRICS_DATABASE_URL names the database. Prints JSON: the seconds without start and imports, and those of the steps.
"""

import json
import os
import sys
import time

from metrics_pipeline_tests.benchmarks.contenders import CONTENDERS

name, day = sys.argv[1:]
run = CONTENDERS[name].load()
started = time.perf_counter()
steps = run(os.environ["METRICS_DATABASE_URL"], day)
print(json.dumps({"seconds": time.perf_counter() - started, "steps": steps}))
