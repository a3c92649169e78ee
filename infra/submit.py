"""What `spark-submit` is given: the command `cuvee`, from outside the folder `jobs`, which would lead sys.path.

spark-submit --master … --py-files cuvee.zip infra/submit.py run experiments/demo.yaml
"""

from jobs.cli import entry

if __name__ == "__main__":
    entry()
