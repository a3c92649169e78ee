"""What a pod runs: Spark on Kubernetes starts its image with `driver …` or `executor`, and says the rest in variables.

Anything else is run as it is, as in `docker run IMAGE python3.11 -m pip list`.
"""

import os
import sys
from collections.abc import Mapping, Sequence

BACKEND = "org.apache.spark.scheduler.cluster.k8s.KubernetesExecutorBackend"


TOLD = {
    "--driver-url": "SPARK_DRIVER_URL",
    "--executor-id": "SPARK_EXECUTOR_ID",
    "--cores": "SPARK_EXECUTOR_CORES",
    "--app-id": "SPARK_APPLICATION_ID",
    "--hostname": "SPARK_EXECUTOR_POD_IP",
    "--resourceProfileId": "SPARK_RESOURCE_PROFILE_ID",
    "--podName": "SPARK_EXECUTOR_POD_NAME",
}
"""The executor's arguments, and the variables in which Spark's driver says them to the pod."""


def command(arguments: Sequence[str], told: Mapping[str, str]) -> list[str]:
    """Return the command of a pod that is started with these arguments and variables; raise KeyError without one."""
    if arguments[:1] == ["driver"]:
        address = told["SPARK_DRIVER_BIND_ADDRESS"]
        submit = [f"{told['SPARK_HOME']}/bin/spark-submit", "--deploy-mode", "client"]
        submit += ["--conf", f"spark.driver.bindAddress={address}"]
        return [*submit, "--conf", f"spark.executorEnv.SPARK_DRIVER_POD_IP={address}", *arguments[1:]]
    if arguments[:1] == ["executor"]:
        numbered = sorted((int(key.rpartition("_")[2]), key) for key in told if key.startswith("SPARK_JAVA_OPT_"))
        memory = told["SPARK_EXECUTOR_MEMORY"]
        places = [told.get("SPARK_CONF_DIR", ""), f"{told['SPARK_HOME']}/jars/*", told.get("SPARK_CLASSPATH", "")]
        java = [f"{told['JAVA_HOME']}/bin/java", *(told[key] for _, key in numbered)]
        java += [f"-Xms{memory}", f"-Xmx{memory}", "-cp", ":".join(filter(None, places)), BACKEND]
        return [*java, *(word for flag, key in TOLD.items() for word in (flag, told[key]))]
    return list(arguments)


if __name__ == "__main__":
    try:
        found = command(sys.argv[1:], os.environ)
    except KeyError as error:
        sys.stderr.write(f"entrypoint.py: {sys.argv[1]}: {error.args[0]} is not set; expected what Spark tells a pod\n")
        sys.exit(2)
    if not found:
        sys.stderr.write("entrypoint.py: expected driver, executor or a command\n")
        sys.exit(2)
    os.execvp(found[0], found)  # noqa: S606
