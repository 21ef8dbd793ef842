"""adopt with a real HAProxy: what deployers write is accepted afterwards, without a warning, and comes back whole."""

import contextlib
import grp
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from lbagent.cli.haproxy import haproxy
from lbagent.guard import VERSION, cfg_lines, file_names
from lbagent.haproxy_cfg import state_folder
from lbagent.settings import load

TIMES = "  timeout connect 1s\n  timeout client 1s\n  timeout server 1s\n"
STRICT = "global\n  zero-warning\n"

PLAIN = f"""{STRICT}  maxconn 100
defaults
  mode http
{TIMES}
frontend fe
  bind 127.0.0.1:18774
  default_backend nova

backend nova
  balance roundrobin
  server ctl1 127.0.0.1:1 check
  server ctl2 127.0.0.1:2 check backup

# queues
listen rabbitmq
  bind 127.0.0.1:15672
  mode tcp
  server ctl1 127.0.0.1:3
"""

BUSY = f"""{STRICT}
defaults
  mode http
{TIMES}  option httplog
  log 127.0.0.1 local0

listen everything
  bind 127.0.0.1:18774
  acl internal src 10.0.0.0/8
  tcp-request connection accept if internal
  tcp-request inspect-delay 1s
  tcp-request content accept if internal
  tcp-response content accept if internal
  monitor-uri /alive
  monitor fail if {{ nbsrv lt 1 }}
  http-request set-header X-Forwarded-Proto https if {{ ssl_fc }}
  http-request deny if {{ path "/a #b" }} !internal  # no entry
  http-response set-header A "b # c"
  http-after-response set-header D e
  redirect prefix /x if {{ path_beg /y }}
  use_backend other if {{ path_beg /z }}
  .if feature(OPENSSL)
  stick-table type ip size 1k
  .endif
  stick on src
  option httpchk
  http-check send meth GET uri /
  force-persist if internal
  use-server s1 if internal
  server s1 127.0.0.1:1 check
  server s2 127.0.0.1:2 check

backend other
  cookie SRV insert indirect nocache
  server s1 127.0.0.1:1 cookie a
"""

NAMED = f"""{STRICT}
defaults base
{TIMES}
defaults web from base
  mode http
  http-request set-header X-From web

defaults plain from base
  mode tcp

defaults front from base
  mode http

frontend fe from front
  bind 127.0.0.1:18774
  default_backend nova

backend nova from web
  server ctl1 127.0.0.1:1

listen mysql from plain
  bind 127.0.0.1:13306
  server ctl1 127.0.0.1:3
"""

TRIPLEO = f"""global
  daemon
  zero-warning
  stats socket /var/lib/haproxy/stats mode 600 level user
  stats timeout 2m

defaults
  maxconn 4096
  mode tcp
  retries 3
{TIMES}
listen mysql
  bind 127.0.0.1:13306 transparent
  option tcpka
  server overcloud-controller-0.internalapi.localdomain 127.0.0.1:3306 backup check inter 1s

listen nova_osapi
  bind 127.0.0.1:18774 transparent
  bind 127.0.0.1:18775 transparent
  mode http
  http-request set-header X-Forwarded-Proto https if {{ ssl_fc }}
  http-request set-header X-Forwarded-Proto http if !{{ ssl_fc }}
  http-request set-header X-Forwarded-Port %[dst_port]
  option httpchk
  server overcloud-controller-0.internalapi.localdomain 127.0.0.1:8774 check fall 5 inter 2000 rise 2
"""

OSA = f"""global
  zero-warning
  maxconn 100
\tstats socket /var/run/haproxy.stat level admin mode 600

defaults
\tmode http
\tretries 3
\toption redispatch
{TIMES}
frontend nova_api_os_compute-front-1
\tbind 127.0.0.1:18774
\toption httplog
\toption forwardfor except 127.0.0.0/8
\tlog 127.0.0.1 local0
\ttimeout http-request 10s
\tdefault_backend nova_api_os_compute-back
frontend nova_api_os_compute-front-2
\tbind 127.0.0.2:18774
\tdefault_backend nova_api_os_compute-back


backend nova_api_os_compute-back
\tmode http
\tbalance leastconn
\toption httpchk
\thttp-check send hdr User-Agent "osa-haproxy-healthcheck" meth HEAD uri /
\tserver infra1_nova_api_container-1a2b3c4d 127.0.0.1:8774 check port 8774 inter 12000 rise 1 fall 1
"""

KOLLA = {
    "haproxy.cfg": f"""global
    zero-warning
    stats socket /var/lib/kolla/haproxy/haproxy.sock group root mode 660 level admin

defaults
    mode http
    balance roundrobin
{TIMES}""",
    "services.d/nova-api.cfg": """frontend nova_api_front
    mode http
    http-request del-header X-Forwarded-Proto
    option httplog
    log 127.0.0.1 local0
    bind 127.0.0.1:18774
    default_backend nova_api_back

backend nova_api_back
    mode http
    server ctl1 127.0.0.1:8774 check inter 2000 rise 2 fall 5

""",
    "services.d/mariadb.cfg": """frontend mariadb_front
    mode tcp
    option clitcpka
    bind 127.0.0.1:13306
    default_backend mariadb_back
backend mariadb_back
    mode tcp
    server ctl1 127.0.0.1:3306 check
""",
    "services.d/README": "not a configuration\n",
}

ONE_FILE = {"plain": PLAIN, "busy": BUSY, "named": NAMED, "tripleo": TRIPLEO, "osa": OSA}
LAYOUTS = {
    **{name: {"haproxy.cfg": text} for name, text in ONE_FILE.items()},
    "kolla": KOLLA,
    "crlf": {"haproxy.cfg": PLAIN.replace("\n", "\r\n")},
    "two files": {"a": PLAIN.partition("frontend")[0], "b": "frontend" + PLAIN.partition("frontend")[2]},
}
GUARDED = {
    "plain": {"nova"},
    "busy": {"everything", "other"},
    "named": {"nova"},
    "tripleo": {"nova_osapi"},
    "osa": {"nova_api_os_compute-back"},
    "kolla": {"nova_api_back"},
    "crlf": {"nova"},
    "two files": {"nova"},
}


class Place:
    """A folder with a configuration, and lbctl run on it."""

    def __init__(self, folder, files, settings=""):
        self.folder = folder
        self.state = folder / "state" / "haproxy"
        self.settings = folder / "lbagent.yaml"
        self.configure(settings)
        for name, text in files.items():
            path = folder / "etc" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text.encode())
        self.paths = [folder / "etc" / name for name in files if "/" not in name]
        if any("/" in name for name in files):
            self.paths.append(folder / "etc" / "services.d")

    def configure(self, settings):
        self.settings.write_text(f"haproxy: {{state_dir: {self.state}}}\n{settings}")

    def adopt(self, *options):
        words = ["adopt", *map(str, self.paths), "--config", str(self.settings), *map(str, options)]
        return CliRunner().invoke(haproxy, words, catch_exceptions=False)

    def content(self):
        return {path: path.read_bytes() for path in sorted((self.folder / "etc").rglob("*")) if path.is_file()}

    def check(self):
        return check(*self.paths)


def check(*paths):
    words = [word for path in paths for word in ("-f", str(path))]
    return subprocess.run(["haproxy", "-c", *words], capture_output=True, text=True, check=False)


@pytest.fixture(params=LAYOUTS)
def layout(request, tmp_path):
    place = Place(tmp_path, LAYOUTS[request.param])
    place.name = request.param
    return place


@pytest.fixture
def plain(tmp_path):
    return Place(tmp_path, {"haproxy.cfg": PLAIN})


# --------------------------------------------------------------------------------------- every deployer's


def test_the_original_is_good(layout):
    result = layout.check()
    assert result.returncode == 0, result.stderr


def test_a_dry_run_prints_a_valid_diff_and_touches_nothing(layout):
    before = layout.content()
    result = layout.adopt()
    assert result.exit_code == 0, result.stderr
    for backend in GUARDED[layout.name]:
        assert f"+  acl lba_guard str() -m str {VERSION}/{backend}" in result.stdout
    assert result.stdout.count("+  acl lba_guard") == len(GUARDED[layout.name])
    assert "not validated" not in result.stderr
    assert layout.content() == before
    assert not layout.state.exists()


def test_written_it_is_accepted_without_a_warning_and_taken_out_again_byte_for_byte(layout):
    before = layout.content()
    result = layout.adopt("--write")
    assert result.exit_code == 0, result.stderr
    assert layout.content() != before
    assert layout.content().keys() == before.keys()
    accepted = layout.check()
    assert accepted.returncode == 0, accepted.stderr
    assert "WARNING" not in accepted.stdout + accepted.stderr

    again, rewritten = layout.adopt(), layout.adopt("--write")
    assert (again.exit_code, again.output) == (0, "")
    assert (rewritten.exit_code, rewritten.output) == (0, "")

    removed = layout.adopt("--remove", "--write")
    assert removed.exit_code == 0, removed.stderr
    assert layout.content() == before
    assert (layout.state / file_names.MAP).exists()


def test_the_diff_of_a_removal_is_validated_too(layout):
    layout.adopt("--write")
    result = layout.adopt("--remove")
    assert result.exit_code == 0
    assert result.stderr == ""
    assert "-  acl lba_guard" in result.stdout


# ------------------------------------------------------------------------------------------------- writing


def test_modes_and_owners_and_links_stay(plain):
    (path,) = plain.paths
    real = path.with_name("real.cfg")
    path.rename(real)
    path.symlink_to(real)
    real.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(real, 12, 34)
    before = real.stat()
    assert plain.adopt("--write").exit_code == 0
    after = real.stat()
    assert path.is_symlink()
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert after.st_ino != before.st_ino


def test_output_leaves_the_originals_alone(plain, tmp_path):
    before = plain.content()
    result = plain.adopt("--output", tmp_path / "new" / "folder")
    assert result.exit_code == 0, result.stderr
    assert plain.content() == before
    assert "lba_guard" in (tmp_path / "new" / "folder" / "haproxy.cfg").read_text()
    assert check(tmp_path / "new" / "folder" / "haproxy.cfg").returncode == 0
    assert plain.adopt("--output", tmp_path / "new" / "folder").output == ""


def test_output_has_every_file_changed_or_not(tmp_path):
    place = Place(tmp_path, {"a.cfg": PLAIN, "b.cfg": "frontend x\n  mode http\n  bind 127.0.0.1:1\n"})
    assert place.adopt("--output", tmp_path / "new").exit_code == 0
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["a.cfg", "b.cfg"]


def test_state_files_that_exist_are_never_overwritten(plain):
    plain.state.mkdir(parents=True)
    (plain.state / file_names.MAP).write_text("nova 1|-|down|0|0|30|3600|30|nova||||\n")
    before = (plain.state / file_names.MAP).read_bytes()
    assert plain.adopt("--write").exit_code == 0
    assert (plain.state / file_names.MAP).read_bytes() == before
    (plain.state / file_names.PAGE).unlink()
    result = plain.adopt("--write")
    assert (result.exit_code, result.stdout) == (0, f"created what HAProxy loads from {plain.state}\n")
    assert (plain.state / file_names.PAGE).exists()
    assert (plain.state / file_names.MAP).read_bytes() == before


@pytest.fixture
def open_place():
    """Where other users than root can go."""
    folder = Path(tempfile.mkdtemp(prefix="lba-", dir="/tmp"))
    folder.chmod(0o755)
    made = Place(folder, {"haproxy.cfg": PLAIN})
    made.state.parent.mkdir()
    yield made
    shutil.rmtree(folder)


OWNER = 12  # a user that is no agent's
needs_root = pytest.mark.skipif(os.geteuid() != 0 and not os.environ.get("CI"), reason="chown takes root")


def test_state_files_belong_to_the_folders_owner_and_are_for_haproxys_group(open_place):
    if os.geteuid() == 0:
        os.chown(open_place.state.parent, OWNER, 34)
    mask = os.umask(0o077)
    try:
        assert open_place.adopt("--write").exit_code == 0
    finally:
        os.umask(mask)
    owner = open_place.state.parent.stat().st_uid
    seen = open_place.state.stat()
    assert seen.st_uid == owner
    # Who is no member of that group cannot give it a folder.
    assert seen.st_mode & 0o7777 == (0o755 if owner == OWNER else 0o2750)
    for path in open_place.state.iterdir():
        assert (path.stat().st_uid, path.stat().st_mode & 0o777) == (owner, 0o644)
    assert {path.name for path in open_place.state.iterdir()} == {
        *file_names.LISTS,
        *(file_names.MAP, file_names.PAGE, file_names.ERRORFILE, file_names.UPLOAD, file_names.STATE),
    }


@needs_root
def test_the_folder_is_for_its_owner_and_haproxys_group(open_place):
    """Its files hold reasons and operators' names."""
    assert open_place.adopt("--write").exit_code == 0
    seen = open_place.state.stat()
    assert (seen.st_uid, grp.getgrgid(seen.st_gid).gr_name, seen.st_mode & 0o7777) == (0, "haproxy", 0o2750)


@needs_root
def test_root_is_led_nowhere_by_a_link_of_the_agents_user(open_place):
    """The agent's user owns the folder above, so it could put a link to any folder into the place of state_dir."""
    victim = open_place.folder / "victim"
    victim.mkdir(mode=0o700)
    os.chown(open_place.state.parent, OWNER, OWNER)
    for link in (open_place.state, open_place.state.parent / "above"):
        link.symlink_to(victim)
        os.lchown(link, OWNER, OWNER)
        open_place.state = open_place.state if link == open_place.state else link / "haproxy"
        open_place.configure("")
        done = open_place.adopt("--write")
        assert done.exit_code == 1
        assert f"is a link of user {OWNER}; nothing was written" in done.stderr
        assert open_place.paths[0].read_bytes() == PLAIN.encode()
    assert list(victim.iterdir()) == []
    assert (victim.stat().st_uid, victim.stat().st_mode & 0o777) == (0, 0o700)


SWAP = """
import os, sys
os.chdir(sys.argv[1])
while True:
    for swap in (lambda: os.rename("haproxy", "aside"), lambda: os.symlink(sys.argv[2], "haproxy"),
                 lambda: os.unlink("haproxy"), lambda: os.rename("aside", "haproxy")):
        try:
            swap()
        except OSError:
            pass
"""


@needs_root
def test_root_is_led_nowhere_whatever_is_swapped_meanwhile(open_place):
    victim = open_place.folder / "victim"
    victim.mkdir(mode=0o700)
    os.chown(open_place.state.parent, OWNER, OWNER)
    words = [sys.executable, "-c", SWAP, str(open_place.state.parent), str(victim)]
    attacker = subprocess.Popen(words, user=OWNER, group=OWNER, extra_groups=[])
    config = load.parse(f"haproxy: {{state_dir: {open_place.state}}}")
    try:
        for _ in range(150):
            with contextlib.suppress(OSError):
                state_folder.take_up(state_folder.lay_down(config))
    finally:
        attacker.kill()
        attacker.wait()
    assert list(victim.iterdir()) == []
    assert (victim.stat().st_uid, victim.stat().st_mode & 0o777) == (0, 0o700)
    assert (os.geteuid(), os.getegid()) == (0, 0)


# -------------------------------------------------------------------------------------------- not accepted


def test_a_bad_candidate_leaves_everything_untouched(plain):
    refuse = plain.folder / "refuse"
    refuse.write_text('#!/bin/sh\necho "no: $*"\nfor last; do :; done\n! grep -q lba_guard "$last"\n')
    refuse.chmod(0o755)
    plain.settings.write_text(f"haproxy: {{state_dir: {plain.state}, check_command: [{refuse}, -c]}}\n")
    before = plain.content()
    for options in (["--write"], ["--output", plain.folder / "new"]):
        result = plain.adopt(*options)
        assert result.exit_code == 1
        assert "does not accept the configuration with these changes" in result.stderr
        assert "no: -c -f " in result.stderr
        assert "nothing was written" in result.stderr
        assert ".lbagent" not in result.stderr
        assert plain.content() == before
        assert not plain.state.exists()
        assert not list(plain.folder.glob("new/*"))
    assert plain.adopt().exit_code == 1


def test_one_bad_file_of_several_keeps_all_of_them_as_they_were(tmp_path):
    """The redirect is above its own tcp-request: with zero-warning, HAProxy refuses, before adopt and after."""
    bad = "backend odd\n  mode http\n  redirect prefix /x\n  tcp-request content accept\n  server s 127.0.0.1:1\n"
    place = Place(tmp_path, {"a.cfg": PLAIN, "b.cfg": bad})
    before = place.content()
    result = place.adopt("--write")
    assert result.exit_code == 1
    assert "does not accept the original, before any change" in result.stderr
    assert "b.cfg:4" in result.stderr
    assert place.content() == before
    preview = place.adopt()
    assert preview.exit_code == 0
    assert "the original" in preview.stderr


def test_what_stands_behind_a_missing_check_command(plain):
    plain.settings.write_text(f"haproxy: {{state_dir: {plain.state}, check_command: [no-such-haproxy]}}\n")
    before = plain.content()
    preview = plain.adopt()
    assert preview.exit_code == 0
    assert "not validated: no-such-haproxy cannot be run" in preview.stderr
    result = plain.adopt("--write")
    assert result.exit_code == 1
    assert "no-such-haproxy cannot be run" in result.stderr
    assert plain.content() == before
    assert not plain.state.exists()


def test_a_file_that_changes_meanwhile_is_not_overwritten(plain):
    (path,) = plain.paths
    slow = plain.folder / "slow"
    slow.write_text(f"#!/bin/sh\necho '# by hand' >>{path}\n")
    slow.chmod(0o755)
    plain.settings.write_text(f"haproxy: {{state_dir: {plain.state}, check_command: [{slow}]}}\n")
    result = plain.adopt("--write")
    assert result.exit_code == 1
    assert "changed by somebody else" in result.stderr
    assert path.read_text() == PLAIN + "# by hand\n"


def test_a_container_sees_the_folder_under_its_own_name(plain):
    plain.settings.write_text(f"haproxy: {{state_dir: {plain.state}, state_dir_in_haproxy: /var/lib/kolla/lba}}\n")
    result = plain.adopt()
    assert result.exit_code == 0
    assert "not validated" in result.stderr
    assert "+  server-state-file /var/lib/kolla/lba/servers.state" in result.stdout


def test_relative_paths_are_validated_where_they_are_true(plain):
    (path,) = plain.paths
    (path.parent / "x.http").write_text("HTTP/1.1 500 x\r\n\r\n")
    text = PLAIN.replace("global\n", "global\n  default-path config\n")
    path.write_text(text.replace("backend nova\n", "backend nova\n  errorfile 500 x.http\n"))
    preview = plain.adopt()
    assert preview.exit_code == 0
    assert "not validated" in preview.stderr
    assert plain.adopt("--write").exit_code == 0


# ------------------------------------------------------------------------------------------------ refusals


def test_an_own_state_file_is_refused(plain):
    (path,) = plain.paths
    path.write_text(PLAIN.replace("  zero-warning", "  server-state-file /x\n  zero-warning"))
    result = plain.adopt("--write")
    assert result.exit_code == 3
    assert result.stderr.startswith(f"lbctl: {path}:2: HAProxy has one server-state-file")


def test_damaged_markers(plain):
    (path,) = plain.paths
    plain.adopt("--write")
    path.write_text(path.read_text().replace("  # END lbagent steer\n", ""))
    for options in ([], ["--remove"], ["--write"]):
        result = plain.adopt(*options)
        assert result.exit_code == 1
        assert result.stderr.startswith(f"lbctl: {path}:")


def test_a_backend_that_is_not_there_is_told_and_the_others_are_guarded(plain):
    plain.configure("services: {nova: {}, cinder: {}}\n")
    result = plain.adopt("--write")
    assert result.exit_code == 1
    assert "service cinder: there is no backend cinder" in result.stderr
    assert "lba_guard" in plain.paths[0].read_text()


@pytest.mark.parametrize(
    ("settings", "words", "said"),
    [
        ("nonsense: 1\nservices: [x]\n", [], "$: unknown key 'nonsense'"),
        ("", ["--write", "--output", "x"], "--output leaves them alone"),
        ("", ["/no/such/file"], "/no/such/file: no such file"),
        ("", ["--config", "/no/such/file"], "/no/such/file: no such file"),
    ],
)
def test_usage(plain, settings, words, said):
    plain.configure(settings)
    result = plain.adopt(*words)
    assert result.exit_code == 2
    assert said in result.stderr


def test_nothing_to_guard_is_said_and_creates_nothing(tmp_path):
    place = Place(tmp_path, {"haproxy.cfg": PLAIN.replace("  server", "  # server")})
    for options in ([], ["--write"]):
        result = place.adopt(*options)
        assert (result.exit_code, result.stdout) == (0, "")
        assert "nothing to guard" in result.stderr
    assert not place.state.exists()


def test_a_file_given_twice(plain):
    plain.paths.append(plain.paths[0].parent)
    result = plain.adopt()
    assert result.exit_code == 2
    assert "given twice" in result.stderr


@pytest.mark.parametrize(
    "parked",
    [
        "backend parked\n  disabled\n  server s 127.0.0.1:1\n",
        "listen parked\n  bind 127.0.0.1:18775\n  server s 127.0.0.1:1\n  disabled\n",
        "listen parked\n  bind 127.0.0.1:18775\n  mode tcp\n  disabled\n  server s 127.0.0.1:1\n",
    ],
)
def test_a_disabled_section_does_not_stand_in_the_way(tmp_path, parked):
    """HAProxy dies of signal 11 where a use-server stands in one."""
    place = Place(tmp_path, {"haproxy.cfg": PLAIN + parked})
    before = place.content()
    result = place.adopt("--write")
    assert result.exit_code == 0, result.stderr
    assert "parked is disabled: left alone" in result.stderr
    assert place.paths[0].read_text().count("# BEGIN lbagent guard") == 1
    assert place.check().returncode == 0
    assert place.adopt("--remove", "--write").exit_code == 0
    assert place.content() == before


def test_debians_own_error_pages_are_no_site_of_anybodys(tmp_path):
    """Its haproxy.cfg names a file for 503 that says what HAProxy says anyhow: our page takes its place."""
    stock = tmp_path / "503.http"
    stock.write_text(
        "HTTP/1.0 503 Service Unavailable\r\nCache-Control: no-cache\r\nConnection: close\r\n"
        "Content-Type: text/html\r\n\r\n<html><body><h1>503 Service Unavailable</h1>\n"
        "No server is available to handle this request.\n</body></html>\n\n"
    )
    text = PLAIN.replace("  mode http\n", f"  mode http\n  errorfile 503 {stock}\n", 1)
    place = Place(tmp_path, {"haproxy.cfg": text})
    assert f"errorfile 503 {place.state}/503-v1.http" in place.adopt().stdout
    stock.write_text("HTTP/1.0 503 Sorry\r\nContent-Type: text/html\r\n\r\n<p>We are sorry.</p>\n")
    result = place.adopt()
    assert "errorfile" not in result.stdout
    assert "nova: the site's own 503" in result.stderr


# ----------------------------------------------------------------------------------- for those who generate


def test_guard_prints_what_a_generated_configuration_needs(plain):
    printed = CliRunner().invoke(haproxy, ["guard", "nova", "--config", str(plain.settings)])
    assert printed.exit_code == 0
    assert printed.stdout.splitlines() == [
        *cfg_lines.lines("nova", str(plain.state)),
        *cfg_lines.steer_lines("nova", str(plain.state)),
    ]
    (path,) = plain.paths
    state = f"global\n  server-state-file {plain.state}/{file_names.STATE}\n"
    text = PLAIN.replace("global\n", state).replace("\nbackend nova\n", f"\nbackend nova\n{printed.stdout}")
    plain.settings.write_text(f"haproxy: {{state_dir: {plain.state}, config: [{path}]}}\n")
    of_tcp = CliRunner().invoke(haproxy, ["guard", "rabbitmq", "--config", str(plain.settings)]).stdout
    assert of_tcp == "  load-server-state-from-file global\n"
    text = text.replace("\nlisten rabbitmq\n", f"\nlisten rabbitmq\n{of_tcp}")
    path.write_text(text)
    result = plain.adopt("--write")
    assert (result.exit_code, result.stdout) == (0, f"created what HAProxy loads from {plain.state}\n")
    assert path.read_text() == text
    assert plain.check().returncode == 0


def test_guard_prints_the_global_lines(plain):
    printed = CliRunner().invoke(haproxy, ["guard", "--global", "--config", str(plain.settings)])
    assert printed.stdout.splitlines() == cfg_lines.global_lines(str(plain.state))
    assert len(printed.stdout.splitlines()) <= 20
    for words in ([], ["nova", "--global"]):
        assert CliRunner().invoke(haproxy, ["guard", *words, "--config", str(plain.settings)]).exit_code == 2


def test_guard_of_what_is_no_name(plain):
    result = CliRunner().invoke(haproxy, ["guard", "a b", "--config", str(plain.settings)])
    assert result.exit_code == 2
