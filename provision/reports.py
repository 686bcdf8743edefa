"""What commands report under `--json`: one model for each document, which the reference page is made from.

Keys are stable: a script may rely on them. A key may be added; none is renamed or removed within a major version.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field

from provision.changes import Change, text_diff
from provision.machines import Machine, with_group
from provision.spec import Testbed

if TYPE_CHECKING:
    from provision.cloud.plan import Plan


class Report(BaseModel):
    """A part of a JSON document."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Check(Report):
    """One check of the stack."""

    name: str = Field(description="What was checked, in words.")
    result: Literal["passed", "failed", "skipped"] = Field(description="How it ended.")
    seconds: float = Field(description="How long it took.")
    reference: str = Field(description="An ID or a URL that the check found, such as a task's; may be empty.")
    message: str = Field(description="What is wrong and what to do; empty when it passed.")
    expected: str = Field(default="", description="What should be; empty unless it failed.")
    seen: str = Field(default="", description="What there is; empty unless it failed.")
    remedy: str = Field(default="", description="What to try; empty unless it failed.")
    log: list[str] = Field(
        default=[], description="The last log lines of the services concerned; empty unless it failed."
    )
    run: int = Field(default=1, description="In which of the runs of --repeat, from 1.")


class Urls(Report):
    """Where the testbed's services answer."""

    web: str = Field(description="The web app.")
    api: str = Field(description="The API server.")
    files: str = Field(description="The file server.")
    telemetry: str = Field(description="InfluxDB.")
    outside: str | None = Field(description="The web app by the server's floating IP, if it has one.")

    @classmethod
    def of(cls, testbed: Testbed, machines: Iterable[Machine] = ()) -> Urls:
        """Return the URLs of `testbed`, which is on `machines`."""
        url, server = testbed.server.url, testbed.server
        outside = [
            server.model_copy(update={"host": machine.address}).url("web")
            for machine in with_group(machines, "server")
            if machine.address and not machine.jump_host and machine.address != machine.internal == server.name("web")
        ]
        services = {"web": url("web"), "api": url("api"), "files": url("files"), "telemetry": testbed.telemetry.url}
        return cls(**services, outside=outside[0] if outside else None)


class UserFiles(Report):
    """A user of the testbed, and what was put into the home."""

    name: str = Field(description="The account's name.")
    conf: str = Field(description="The user's clearml.conf.")
    venv: str = Field(description="The user's virtual environment.")


class ChangeReport(Report):
    """One thing that would come, change, restart or go."""

    host: str = Field(description="The host; empty for what is the testbed's, such as a key.")
    kind: str = Field(
        description="package, account, folder, environment, file, service, database, telemetry, key; with provider "
        "openstack also server, port, volume, …, in OpenStack's words."
    )
    name: str = Field(description="Which one: a package's or service's name, a path, a key's holder.")
    action: Literal["add", "change", "replace", "start", "restart", "remove", "revoke"] = Field(
        description="What would happen."
    )
    detail: str = Field(description="More about it, in words; may be empty.")
    after: list[str] = Field(description="What is to come first, as `kind name`.")
    diff: str = Field(description="With --diff: how a file's text changes (unified); empty where it is secret.")


class CheckReport(Report):
    """`testbed up --check --json` and `down --check --json`: what the command would do; empty when nothing."""

    testbed: str = Field(description="The testbed's name.")
    changes: list[ChangeReport] = Field(description="What would change, by kind.")

    @classmethod
    def of(cls, testbed: str, changes: list[Change], *, diff: bool) -> CheckReport:
        """Return the report on `changes`."""
        return cls(
            testbed=testbed,
            changes=[ChangeReport(**change.shown(), diff=text_diff(change) if diff else "") for change in changes],
        )


class UpReport(Report):
    """`testbed up --json`: what was changed, and whether the testbed works."""

    testbed: str = Field(description="The testbed's name.")
    healthy: bool = Field(description="Whether no check failed.")
    changed: int = Field(description="Ansible tasks that changed something on a host.")
    issued: int = Field(description="Keys issued.")
    revoked: int = Field(default=0, description="Keys revoked.")
    level: Literal["quick", "full"] = Field(description="Which checks ran.")
    checks: list[Check] = Field(description="Every check and its result.")
    urls: Urls = Field(description="Where the services answer.")
    users: list[UserFiles] = Field(description="The users and their files.")
    log: str = Field(description="The whole log.")


class SmokeReport(Report):
    """`testbed smoke --json`: whether the testbed works."""

    testbed: str = Field(description="The testbed's name; with --conf the file.")
    healthy: bool = Field(description="Whether no check failed.")
    level: Literal["quick", "full"] = Field(description="Which checks ran.")
    checks: list[Check] = Field(description="Every check and its result.")
    left_out: list[str] = Field(default=[], description="With --conf: what was not checked, and why.")
    kept: list[str] = Field(default=[], description="With --keep: the projects on the server that stay.")
    log: str = Field(description="The whole log.")


class Service(Report):
    """A service on a host."""

    host: str = Field(description="The host's name in the inventory.")
    name: str = Field(description="The service's name for systemd or supervisord.")
    running: bool = Field(description="Whether the service manager says that it runs.")
    state: str = Field(description="How it is, in words: runs, does not run, is unhealthy, cannot be asked, …")


class WorkerState(Report):
    """An agent's worker, as the server sees it."""

    name: str = Field(description="HOST:NAME.")
    queues: list[str] = Field(description="The queues that it serves.")
    task: str | None = Field(description="ID of the task that it runs; null when idle.")
    last_report: str = Field(description="When it last reported, ISO 8601.")
    drained: str | None = Field(description="Since when it takes no task, and by whose order; null: it takes tasks.")


class QueueState(Report):
    """A queue of the server."""

    name: str = Field(description="The queue's name.")
    waiting: int = Field(description="Tasks that wait in it.")


class Disk(Report):
    """A file system of a host's: the one with the data, and others that the testbed writes to."""

    host: str = Field(description="The host's name in the inventory.")
    path: str = Field(description="The folder that was looked at; of several on one file system the first.")
    data: bool = Field(description="Whether it is the data folder.")
    size: int = Field(description="Bytes in all.")
    free: int = Field(description="Bytes free.")
    used: float = Field(description="The part that is used, 0 to 1, of what all but root may use.")
    inodes_used: float = Field(description="The part of its inodes that is used, 0 to 1; 0 where it has no such limit.")
    writable: bool = Field(description="Whether it can be written to.")


class Clock(Report):
    """A clock of the testbed's, beside that of the administrator's machine."""

    of: str = Field(description="Whose it is: a host's name in the inventory, or a service's URL.")
    offset: float = Field(description="Seconds that it is ahead; less than 0: behind.")


class StatusProblem(Report):
    """What is not well."""

    message: str = Field(description="What is wrong, and where.")
    remedy: str = Field(description="What to do.")


class CertificateState(Report):
    """The certificate that a service shows, as the administrator's machine sees it."""

    url: str = Field(description="The service.")
    ends: str | None = Field(description="When it ends, ISO 8601; null where it is refused, or none is shown.")
    problem: str = Field(description="What is wrong with it; empty when it is good.")
    remedy: str = Field(description="What to do about that; empty when it is good.")


class MirrorState(Report):
    """A mirror that the spec names, as a host that uses it sees it."""

    host: str = Field(description="The host's name in the inventory.")
    key: str = Field(description="Where it is in testbed.yaml, such as mirrors.pip.")
    url: str = Field(description="The mirror.")
    problem: str = Field(description="Why it does not answer; empty when it does.")


class StoreState(Report):
    """An existing cluster of `server.stores`, as the server's host sees it."""

    name: str = Field(description="Its key in server.stores.")
    host: str = Field(description="Its name or address.")
    port: int = Field(description="Its port.")
    problem: str = Field(description="Why it does not answer; empty when it does.")


class StatusReport(Report):
    """`testbed status --json`: what stands and how it is; with --watch, one a line."""

    testbed: str = Field(description="The testbed's name.")
    at: str = Field(description="When it was so, ISO 8601, UTC.")
    healthy: bool = Field(description="Whether there is no problem.")
    problems: list[StatusProblem] = Field(description="All that is not well.")
    urls: Urls = Field(description="Where the services answer.")
    services: list[Service] = Field(description="Every service on every host.")
    versions: dict[str, str | None] = Field(description="Version by program; null where it is not installed.")
    workers: list[WorkerState] = Field(description="Workers that reported in the last ten minutes.")
    queues: list[QueueState] = Field(description="All queues.")
    disk: list[Disk] = Field(description="The data folder's disk, for each host.")
    clocks: list[Clock] = Field(description="The clocks of hosts and services.")
    certificates: list[CertificateState] = Field(description="The services' certificates; none without server.tls.")
    mirrors: list[MirrorState] = Field(description="The mirrors that the spec names, for each host that uses them.")
    stores: list[StoreState] = Field(description="The existing clusters that the server uses.")


class DrainState(Report):
    """A worker that was drained or undrained, and how far that is."""

    name: str = Field(description="HOST:NAME.")
    state: Literal["working", "finishing", "drained"] = Field(
        description="working: takes tasks; finishing: takes none, and runs one or has not answered yet; drained: takes "
        "none, and runs none."
    )
    since: str | None = Field(description="When it was drained, and by whom; null: it takes tasks.")
    task: str | None = Field(description="ID of the task that it runs, as the server knows it; null: none.")


class DrainReport(Report):
    """`testbed drain --json` and `undrain --json`: the workers that were named."""

    testbed: str = Field(description="The testbed's name.")
    done: bool = Field(description="Whether every one is drained, or takes tasks again.")
    changed: int = Field(description="Orders given or taken back by this command.")
    workers: list[DrainState] = Field(description="The workers, by name.")


class DownReport(Report):
    """`testbed down --json`: what was removed."""

    testbed: str = Field(description="The testbed's name.")
    changed: int = Field(description="Ansible tasks that changed something on a host.")
    purged: bool = Field(description="Whether data, homes and secrets went, too.")
    deleted: int = Field(default=0, description="Resources deleted in the cloud.")
    revoked: int = Field(default=0, description="Keys revoked on a server that somebody else runs.")
    log: str | None = Field(description="The whole log; null after --purge, which removes it, and where there is none.")


class BackupReport(Report):
    """`testbed backup --json`: what was archived, and where it is."""

    testbed: str = Field(description="The testbed's name.")
    backup: str = Field(description="The folder with the backup.")
    made: str = Field(description="When, ISO 8601, UTC.")
    backend: str = Field(description="The server's backend.")
    server: str = Field(description="The server's version.")
    bytes: int = Field(description="Size of the archive.")
    files: int = Field(description="Files in it; each was read back and compared with what the host read.")
    downtime: float = Field(description="Seconds for which the server did not answer.")
    elsewhere: list[str] = Field(
        default=[], description="Stores that `server.stores` has elsewhere, whose data are not in the backup."
    )
    log: str = Field(description="The whole log.")


class UpgradeReport(Report):
    """`testbed upgrade --json`: from which version of the server to which, and whether the testbed works."""

    testbed: str = Field(description="The testbed's name.")
    healthy: bool = Field(description="True when every check passed or was left out.")
    before: str = Field(description="The server's version of before.")
    server: str = Field(description="Its version now.")
    backup: str = Field(description="The folder with the backup that was made first.")
    elsewhere: list[str] = Field(
        default=[], description="Stores that `server.stores` has elsewhere, whose data are not in the backup."
    )
    checks: list[Check] = Field(description="Every check, in the order in which they ran.")
    log: str = Field(description="The whole log.")


class RestoreReport(Report):
    """`testbed restore --json`: what was put back, and whether the testbed works with it."""

    testbed: str = Field(description="The testbed's name.")
    healthy: bool = Field(description="Whether no check failed.")
    backup: str = Field(description="The folder with the backup.")
    made: str = Field(description="When it was made, ISO 8601, UTC.")
    files: int = Field(description="Files that were put back; each was compared with its checksum.")
    compared: int = Field(
        description="Of these, those compared once more while the server ran: all that it does not change."
    )
    kept: str | None = Field(description="Where the vault that was replaced is kept; null where none was.")
    elsewhere: list[str] = Field(
        default=[], description="Stores that `server.stores` has elsewhere, whose data were not touched."
    )
    checks: list[Check] = Field(description="Every check and its result.")
    log: str = Field(description="The whole log.")


class CloudAction(Report):
    """One resource of the testbed in the cloud, and what would happen to it."""

    action: Literal["create", "change", "replace", "delete", "wait", "keep"] = Field(
        description="What would happen. wait: it is on its way; keep: it is left alone."
    )
    kind: str = Field(description="server, port, volume, network, …, in OpenStack's words.")
    name: str = Field(description="The node's name, such as agent-1, or the resource's.")
    id: str = Field(description="Its ID in the cloud; empty where it is not there yet.")
    why: str = Field(description="Why, in words; may be empty.")


class QuotaReport(Report):
    """One of the project's quotas; RAM in MiB, gigabytes in GiB."""

    name: str = Field(description="instances, cores, ram, volumes, gigabytes, gigabytes of type ssd, ports, …")
    before: int = Field(description="Used now, by all in the project.")
    after: int = Field(description="Used when the plan is done.")
    limit: int = Field(description="Allowed; -1: no limit.")
    short_by: int = Field(description="How much is missing.")


class PlanProblem(Report):
    """What stands in the way of a plan."""

    message: str = Field(description="What is missing or wrong.")
    remedy: str = Field(description="What to do.")


class PlanReport(Report):
    """`testbed plan --json`: what `up` would do in the cloud, and what stands in its way."""

    testbed: str = Field(description="The testbed's name.")
    fits: bool = Field(description="Whether nothing is in the way and the quotas suffice.")
    actions: list[CloudAction] = Field(description="Every resource, also those that are left alone.")
    problems: list[PlanProblem] = Field(description="All that is missing or wrong, but for the quotas.")
    quotas: list[QuotaReport] = Field(description="The quotas before and after.")
    largest: str = Field(description="Where quotas are short: the largest layout that fits; else empty.")

    @classmethod
    def of(cls, testbed: str, plan: Plan) -> PlanReport:
        """Return the report on `plan`."""
        return cls(
            testbed=testbed,
            fits=plan.fits,
            actions=[
                CloudAction(action=each.verb, kind=each.kind, name=each.name, id=each.id, why=each.why)
                for each in plan.actions
            ],
            problems=[PlanProblem(message=each.what, remedy=each.remedy) for each in plan.problems],
            quotas=[
                QuotaReport(name=row.name, before=row.before, after=row.after, limit=row.limit, short_by=row.short_by)
                for row in plan.quotas
            ],
            largest=plan.largest,
        )


class TestbedInProject(Report):
    """A testbed in a project of the cloud, as its marks tell."""

    __test__ = False  # pytest collects classes named Test…

    name: str = Field(description="The testbed's name.")
    servers: int = Field(description="How many servers it has.")
    floating_ips: list[str] = Field(description="Its floating IPs.")
    created: str = Field(description="When the oldest of its resources was made, ISO 8601, UTC.")
    holder: str | None = Field(description="Who works on it now, as USER@HOST; null: nobody.")
    since: str | None = Field(description="Since when, ISO 8601, UTC; null: nobody.")


class ListReport(Report):
    """`testbed list --json`: every testbed of the project."""

    cloud: str = Field(description="The entry of clouds.yaml.")
    testbeds: list[TestbedInProject] = Field(description="The testbeds, by name.")


class VaultState(Report):
    """The file that holds the secrets on the administrator's machine."""

    path: str = Field(description="Where it is.")
    there: bool = Field(description="Whether it is there.")
    mode: str | None = Field(description="Its mode in octal, such as 0600; null where it is not there.")
    owner: str | None = Field(description="Its owner; null where it is not there.")
    password_from: str = Field(description="Where its password comes from; never the password.")


class SecretsCheck(Report):
    """One question about the secrets."""

    name: str = Field(description="What was asked, in words.")
    result: Literal["yes", "no", "not running"] = Field(description="The answer.")
    remedy: str = Field(description="What to do; empty when the answer is yes.")


class SecretsReport(Report):
    """`testbed secrets status --json`: where the secrets are, and whether the running testbed takes them."""

    testbed: str = Field(description="The testbed's name.")
    healthy: bool = Field(description="Whether every answer is yes.")
    vault: VaultState = Field(description="The vault's file.")
    id: str | None = Field(description="The id of the secrets, which the testbed's hosts carry as well; no secret.")
    rekeying: bool = Field(description="Whether a re-key was begun and is not complete.")
    rotating: bool = Field(default=False, description="Whether a rotation was begun and is not complete.")
    holds: dict[str, list[str]] = Field(description="Names of what is kept, by kind; never a value.")
    checks: list[SecretsCheck] = Field(description="Every question and its answer.")


class ExportReport(Report):
    """`testbed secrets export --json`: what was written."""

    testbed: str = Field(description="The testbed's name.")
    id: str = Field(description="The id of the secrets.")
    file: str = Field(description="The encrypted file.")


class ImportReport(Report):
    """`testbed secrets import --json`: what was done with the vault."""

    testbed: str = Field(description="The testbed's name.")
    id: str = Field(description="The id of the secrets.")
    exported: str = Field(description="When the file was written, ISO 8601, UTC.")
    result: Literal["new", "same", "replaced"] = Field(description="What was there before: nothing, the same, others.")
    kept: str | None = Field(description="Where the vault that was replaced is kept; null where none was.")


class RotateReport(Report):
    """`testbed secrets rotate --json`: what was replaced, and whether the testbed works with it."""

    testbed: str = Field(description="The testbed's name.")
    healthy: bool = Field(description="Whether no check failed.")
    id: str = Field(description="The id of the new secrets.")
    rotated: list[str] = Field(description="Names of the secrets that are new, as `kind.name`; never a value.")
    issued: int = Field(description="Keys issued to agents, users and the toolkit.")
    revoked: int = Field(description="Keys revoked.")
    away_seconds: float = Field(description="How long the API server did not answer.")
    kept: str | None = Field(description="Where the secrets of until now are; null where a rotation went on.")
    checks: list[Check] = Field(description="Every check and its result.")
    log: str = Field(description="The whole log.")


class KeyState(Report):
    """A key as the server tells of it; never its secret."""

    user: str = Field(description="Whose it is, as testbed.yaml or the server names them.")
    purpose: str = Field(description="What for; empty where its label does not say.")
    access_key: str = Field(description="The access key, which is no secret.")
    issued: str | None = Field(description="The day on which it was issued (UTC); null: not known.")
    expires: str | None = Field(description="The first day on which it is to work no more (UTC); null: none.")
    last_used: str | None = Field(description="When it was last exchanged for a token, ISO 8601, UTC; null: never.")
    last_used_from: str | None = Field(description="From which address; null: never.")
    state: Literal["good", "expired", "unwritten", "edited", "own", "other"] = Field(
        description="good; expired: past its day; unwritten: nobody has it; edited: somebody changed its label; own: "
        "made by the user; other: issued by another testbed, as its label says."
    )
    label: str = Field(description="Its label on the server.")


class KeysReport(Report):
    """`testbed credentials list --json`: keys on the server."""

    testbed: str = Field(description="The testbed's name.")
    keys: list[KeyState] = Field(description="The keys, by user and purpose.")


class IssueReport(Report):
    """`testbed credentials issue --json` and `rotate`: the key that was issued; never its secret."""

    testbed: str = Field(description="The testbed's name.")
    user: str = Field(description="Whose it is.")
    purpose: str = Field(description="What for.")
    access_key: str = Field(description="The access key, which is no secret.")
    expires: str | None = Field(description="The first day on which it is to work no more (UTC); null: none.")
    file: str = Field(description="The clearml.conf or the bundle that was written; on hosts, in the user's home.")
    ca_file: str | None = Field(description="The file with the server's CA beside it; null where none is needed.")
    hosts: list[str] = Field(default=[], description="The hosts that it is on; none: it is here.")
    revoked: int = Field(description="Keys that were revoked: replaced ones, and what killed commands left.")


class RenewReport(Report):
    """`testbed credentials rotate --all --json`, or with `--purpose client`: keys on the hosts that were replaced."""

    testbed: str = Field(description="The testbed's name.")
    healthy: bool = Field(description="Whether all checks passed.")
    renewed: list[str] = Field(
        description="Whose keys are new: user/NAME, agent/HOST/WORKER, inference/HOST, watchdog/HOST, toolkit."
    )
    issued: int = Field(description="Keys that were issued.")
    revoked: int = Field(description="Keys that were revoked, when the new ones were on the hosts and worked.")
    checks: list[Check] = Field(description="What was checked.")
    log: str = Field(description="The log.")


class RevokeReport(Report):
    """`testbed credentials revoke --json` and `expire`: the keys that were revoked."""

    testbed: str = Field(description="The testbed's name.")
    revoked: list[KeyState] = Field(description="The keys, as they were.")
    left: list[KeyState] = Field(
        default=[], description="Keys of the user that stay: services or another testbed have them, by their labels."
    )
    tokens: Literal["ended", "live on"] = Field(description="What became of tokens that they were exchanged for.")
    healthy: bool = Field(default=True, description="Whether all checks passed.")
    checks: list[Check] = Field(default=[], description="What was checked where `--now` restarted the server.")
    log: str = Field(default="", description="The log of that.")


class Finding(Report):
    """What is not well with a key."""

    kind: Literal[
        "expired",
        "unwritten",
        "edited",
        "unlabelled",
        "twice",
        "left",
        "never used",
        "unused",
        "elsewhere",
        "other",
        "public",
    ] = Field(
        description="What it is, in a word; other: its label names another testbed; public: one that is published with "
        "the official server, and works."
    )
    user: str = Field(description="Whose key it is.")
    access_key: str = Field(description="The access key, which is no secret.")
    message: str = Field(description="What is not well.")
    remedy: str = Field(description="What to do.")


class AuditReport(Report):
    """`testbed credentials audit --json`: what is not well with the keys on the server."""

    testbed: str = Field(description="The testbed's name.")
    healthy: bool = Field(description="Whether nothing was found.")
    keys: int = Field(description="How many keys were looked at.")
    findings: list[Finding] = Field(description="What was found, by user.")


class Onboarded(Report):
    """A user of a class, and the key that there is now; never its secret."""

    name: str = Field(description="The user.")
    full_name: str = Field(description="The person's name in the CSV; may be empty.")
    purpose: str = Field(description="What the key is for.")
    access_key: str = Field(description="The access key, which is no secret.")
    expires: str | None = Field(description="The first day on which it is to work no more (UTC); null: none.")
    state: Literal["issued", "there", "elsewhere"] = Field(
        description="issued: by this run; there: by an earlier one, into the same folder; elsewhere: the user has a "
        "key for this purpose, and its file is not in the folder."
    )
    file: str | None = Field(description="The clearml.conf or the bundle; null where it is elsewhere.")


class OnboardReport(Report):
    """`testbed onboard --json`: what became of everybody in the CSV."""

    testbed: str = Field(description="The testbed's name.")
    sheet: str = Field(description="The summary, as CSV and without secrets.")
    ca_file: str | None = Field(description="The file with the server's CA; null where none is needed.")
    users: list[Onboarded] = Field(description="Everybody, in the order of the CSV.")


class UserState(Report):
    """A user, as testbed.yaml and the server know them."""

    name: str = Field(description="The username; for one who has left, perhaps only what the server calls them.")
    full_name: str | None = Field(description="The name that the web app shows, where testbed.yaml has one.")
    state: Literal["ready", "missing", "left"] = Field(
        description="ready: the server has them; missing: it has not yet; left: it has them, and testbed.yaml has not."
    )
    keys: int = Field(description="How many keys they have, those of services among them.")
    last_used: str | None = Field(description="When one of these was last used, ISO 8601, UTC; null: never.")


class UsersReport(Report):
    """`testbed users list --json` and `users apply --json`: who the users are, and whether the server has them."""

    testbed: str = Field(description="The testbed's name.")
    users: list[UserState] = Field(description="Every user: first those in testbed.yaml, then who has left it.")
    added: list[str] = Field(default=[], description="Who was added to testbed.yaml by this command.")
    refused: list[str] = Field(
        default=[], description="Who was not added, as a server that somebody else runs does not have them."
    )


class RemovedReport(Report):
    """`testbed users remove --json`: who was removed, and what of theirs ended."""

    testbed: str = Field(description="The testbed's name.")
    removed: list[str] = Field(description="The users.")
    revoked: list[KeyState] = Field(description="Their keys, as they were before.")
    login: Literal["ended", "stays"] = Field(
        description="Whether their password and their tokens ended; they stay on a server that somebody else runs."
    )


class ConfCheck(Report):
    """One check of a clearml.conf."""

    name: str = Field(description="What was checked, in words.")
    result: Literal["passed", "failed", "skipped"] = Field(description="How it ended.")
    message: str = Field(description="What was found.")
    remedy: str = Field(description="What to do; empty unless it failed.")


class VerifiedConf(Report):
    """A clearml.conf, and what was checked of it."""

    file: str = Field(description="The file.")
    host: str | None = Field(description="The host that has it; null: this machine.")
    checks: list[ConfCheck] = Field(description="Every check, in the order in which they ran.")


class VerifyReport(Report):
    """`testbed credentials verify --json`: whether a clearml.conf works."""

    healthy: bool = Field(description="Whether no check failed.")
    confs: list[VerifiedConf] = Field(description="The file; for a user, one for each host with clients.")


class VersionReport(Report):
    """`testbed version --json`: what runs here."""

    version: str = Field(description="The toolkit's version (PEP 440); a commit that is no release is in it.")
    python: str = Field(description="Version of the Python that runs the command.")
    ansible_core: str = Field(description="Version of ansible-core.")
    data: str = Field(description="Folder of roles, playbooks and checks: the checkout, or inside the package.")


class Problem(Report):
    """Why a command failed."""

    message: str = Field(description="What was wrong, and where.")
    remedy: str = Field(description="What to do; may be empty.")
    exit_code: int = Field(description="The command's exit code.")


class ErrorReport(Report):
    """An error: what any command prints under `--json` instead of its report when it could not do its work."""

    error: Problem = Field(description="Why it failed.")
