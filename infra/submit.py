"""What `spark-submit` is given: the command `cuvee`, from outside the folder `jobs`, which would lead sys.path.

spark-submit --master … --py-files cuvee.zip infra/submit.py run experiments/demo.yaml
"""

import signal

from jobs.cli import entry
from pipeline.parent import end_with_parent

if __name__ == "__main__":
    end_with_parent(signal.SIGINT)  # spark-submit's Java, which a schedule may kill: it is an interrupt, and resumes
    entry()
