"""A Slurm of two nodes inside a namespace, from Debian's packages: the real daemons, one CPU a node, on loopback."""

from __future__ import annotations

import os
import pwd
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.sweeps.cluster.namespace import namespace, wait_until
from tests.sweeps.cluster.studies import Cluster

_CONFIGURATION = """\
ClusterName=loop
SlurmctldHost=localhost(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={state}/munge.sock,cred_expire=10
CryptoType=crypto/munge
SlurmctldPort=16817
StateSaveLocation={state}/state
SlurmdSpoolDir={state}/spool.%n
SlurmctldPidFile={state}/slurmctld.pid
SlurmdPidFile={state}/slurmd.%n.pid
SlurmctldLogFile={state}/slurmctld.log
SlurmdLogFile={state}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/none
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
MailProg=/bin/true
SlurmdTimeout=10
KillWait=5
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0
NodeName=n1 NodeHostname=localhost NodeAddr=127.0.0.1 Port=16821 CPUs=1 RealMemory=8000 State=UNKNOWN
NodeName=n2 NodeHostname=localhost NodeAddr=127.0.0.1 Port=16822 CPUs=1 RealMemory=8000 State=UNKNOWN
PartitionName=debug Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""  # cred_expire is also how long Slurm holds back what it requeues; it is 120 s elsewhere
_PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "srun", "sinfo", "scontrol")


@dataclass(frozen=True)
class Slurm(Cluster):
    """A Slurm; see `Cluster`."""

    def call(self, *command: str) -> str:
        """What a command of Slurm's prints."""
        return self.namespace.run(*command, folder=Path("/"), variables=self.variables)

    def start_node(self, name: str) -> None:
        """Start a node's daemon; its processes, and those of its jobs, carry the node's name in a variable."""
        configuration = self.variables["SLURM_CONF"]
        variables = self.variables | {"SLURMD_NODENAME": name}
        self.namespace.run("slurmd", "-f", configuration, "-N", name, folder=Path("/"), variables=variables)

    def node_to_lose(self) -> str:
        """The second node."""
        return "SLURMD_NODENAME=n2"

    def idle(self) -> bool:
        """Whether both nodes take jobs."""
        return self.call("sinfo", "--noheader", "--Node", "--format=%T").split() == ["idle", "idle"]


@contextmanager
def slurm() -> Iterator[Slurm]:
    """Start the cluster; it ends with the block. Skips where Slurm is not installed."""
    path = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])
    if missing := [name for name in _PROGRAMS if shutil.which(name, path=path) is None]:
        pytest.skip(f"{missing[0]} is not installed (apt-get install slurm-wlm munge)")
    pytest.importorskip("submitit")
    state = Path(tempfile.mkdtemp(prefix="slurm-"))
    try:
        state.chmod(0o755)  # munged wants to be reached, and pytest's folders are closed to others
        key = state / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        configuration = state / "slurm.conf"
        configuration.write_text(_CONFIGURATION.format(state=state, user=pwd.getpwuid(os.getuid()).pw_name))
        variables = {"SLURM_CONF": str(configuration), "PATH": path}
        with namespace() as inside:
            cluster = Slurm(inside, variables, ("engine=slurm", "engine.memory=2"))
            # glibc resolves no address, not even 127.0.0.1, for one who asks for configured families and has loopback alone.
            cluster.call("ip", "address", "add", "192.0.2.1/32", "dev", "lo")
            cluster.call(
                "munged", f"--key-file={key}", f"--socket={state}/munge.sock", f"--pid-file={state}/munged.pid",
                f"--log-file={state}/munged.log", f"--seed-file={state}/munged.seed",
            )  # fmt: skip
            cluster.call("slurmctld", "-f", str(configuration), "-c", "-i")
            for node in ("n1", "n2"):
                cluster.start_node(node)
            wait_until(cluster.idle, 60, "both nodes idle")
            yield cluster
    finally:
        shutil.rmtree(state, ignore_errors=True)
