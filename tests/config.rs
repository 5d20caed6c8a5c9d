//! Configurations as files, and the program that is started with them.
//!
//! A file under `config/valid` loads with exactly the warnings it announces in `# warn: …` lines; one
//! under `config/invalid` has exactly the problems it announces in `# expect: …` lines, in any order.
//! `# env: NAME=value` sets a variable for either.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use fanfare::config::{Config, Env, Source};

struct Case {
    name: String,
    text: String,
}

impl Case {
    fn announced(&self, what: &str) -> Vec<&str> {
        let prefix = format!("# {what}: ");
        self.text.lines().filter_map(|line| line.strip_prefix(&prefix)).collect()
    }

    fn load(&self) -> Result<Config, Vec<String>> {
        let pair = |line: &str| line.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
        let env: Env = self.announced("env").into_iter().filter_map(pair).collect();
        let loaded = Config::load(Source::text(&self.name, &self.text), &env);
        loaded.map_err(|problems| problems.iter().map(ToString::to_string).collect())
    }
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config").join(name)
}

fn cases(name: &str, at_least: usize) -> Vec<Case> {
    let entries = folder(name).read_dir().expect("the folder");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let cases: Vec<Case> = paths
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .map(|path| Case {
            name: path.file_name().expect("a name").to_string_lossy().into_owned(),
            text: std::fs::read_to_string(&path).expect("a text"),
        })
        .collect();
    assert!(cases.len() >= at_least, "only {} files in {name}", cases.len());
    cases
}

/// What a case announces and what came out, where they differ.
fn difference(case: &Case, announced: &[&str], found: &[String]) -> Option<String> {
    let missing: Vec<_> =
        announced.iter().filter(|part| !found.iter().any(|line| line.contains(**part))).collect();
    let surplus: Vec<_> =
        found.iter().filter(|line| !announced.iter().any(|part| line.contains(part))).collect();
    let same = missing.is_empty() && surplus.is_empty() && announced.len() == found.len();
    (!same).then(|| format!("{}: missing {missing:#?}, surplus {surplus:#?}, found {found:#?}", case.name))
}

#[test]
fn valid_files_load() {
    let mut failed = Vec::new();
    for case in cases("valid", 5) {
        match case.load() {
            Ok(config) => failed.extend(difference(&case, &case.announced("warn"), &config.warnings)),
            Err(problems) => failed.push(format!("{}: {problems:#?}", case.name)),
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn invalid_files_have_exactly_their_problems() {
    let mut failed = Vec::new();
    for case in cases("invalid", 20) {
        let expected = case.announced("expect");
        assert!(!expected.is_empty(), "{} expects nothing", case.name);
        match case.load() {
            Ok(_) => failed.push(format!("{} loads", case.name)),
            Err(problems) => failed.extend(difference(&case, &expected, &problems)),
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// The program, with no more of an environment than is given.
fn fanfare(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fanfare"));
    command.args(arguments).env_clear().stdin(Stdio::null());
    command
}

fn path(name: &str) -> String {
    folder(name).to_string_lossy().into_owned()
}

fn run(command: &mut Command) -> (i32, String, String) {
    let Output { status, stdout, stderr } = command.output().expect("it starts");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (status.code().expect("an exit code"), text(stdout), text(stderr))
}

/// A program that serves; killed if the test ends before it.
struct Serving {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Serving {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
        let stdout = child.stdout.take().expect("a pipe");
        Self { child, lines: BufReader::new(stdout).lines() }
    }

    /// The next line of its output; empty at the end.
    fn line(&mut self) -> String {
        self.lines.next().transpose().expect("a line").unwrap_or_default()
    }

    /// Signals it, and returns its exit code and what else it wrote.
    fn stop(mut self, signal: &str) -> (i32, String, String) {
        let killed = Command::new("kill").args([signal, &self.child.id().to_string()]).status();
        assert!(killed.is_ok_and(|status| status.success()));
        let stdout: Vec<String> = self.lines.by_ref().map(|line| line.expect("a line")).collect();
        let mut stderr = String::new();
        self.child.stderr.take().expect("a pipe").read_to_string(&mut stderr).expect("UTF-8");
        let code = self.child.wait().expect("it ends").code().expect("an exit code");
        (code, stdout.join("\n"), stderr)
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn check_tells_that_all_is_well() {
    let file = path("valid/warnings.toml");
    let (code, stdout, stderr) = run(&mut fanfare(&["check", "--config", &file]));
    assert_eq!((code, stderr.as_str()), (0, ""), "{stdout}");
    let mut lines = stdout.lines();
    assert_eq!(lines.next(), Some(format!("{file}: ok, 2 apps").as_str()));
    assert!(lines.clone().count() >= 2 && lines.all(|line| line.starts_with("warning: ")), "{stdout}");
}

#[test]
fn check_tells_every_problem_on_a_line_of_its_own() {
    let file = path("invalid/everything_at_once.toml");
    let (code, stdout, stderr) = run(&mut fanfare(&["check", "--config", &file]));
    assert_eq!((code, stdout.as_str()), (2, ""));
    assert!(stderr.lines().count() >= 5, "{stderr}");
    assert!(stderr.lines().all(|line| line.starts_with(&format!("{file}:"))), "{stderr}");
}

/// Every broken config keeps the program from serving, and is told of as the loader tells of it.
#[test]
fn no_broken_config_is_served() {
    for case in cases("invalid", 20) {
        let file = folder("invalid").join(&case.name);
        let mut command = fanfare(&["serve", "--config", file.to_str().unwrap()]);
        let pairs = case.announced("env").into_iter().filter_map(|line| line.split_once('='));
        let (code, stdout, stderr) = run(command.envs(pairs));
        assert_eq!((code, stdout.as_str()), (2, ""), "{}: {stderr}", case.name);
        for expected in case.announced("expect") {
            assert!(
                stderr.lines().any(|line| line.contains(expected)),
                "{}: {expected}: {stderr}",
                case.name
            );
        }
    }
}

#[test]
fn check_sees_the_environment() {
    let file = path("valid/minimal.toml");
    let (code, _, stderr) = run(fanfare(&["check", "--config", &file]).env("FANFARE_LOG__LEVEL", "loud"));
    assert_eq!(code, 2);
    assert!(stderr.starts_with("FANFARE_LOG__LEVEL: log.level: unknown value \"loud\""), "{stderr}");
}

#[test]
fn a_file_that_cannot_be_had_is_never_replaced_by_defaults() {
    let missing = path("valid/nowhere.toml");
    for arguments in
        [&["check", "--config", &missing][..], &["serve", "--config", &missing], &["--config", &missing]]
    {
        let (code, stdout, stderr) = run(&mut fanfare(arguments));
        assert_eq!((code, stdout.as_str()), (2, ""), "{arguments:?}");
        assert!(stderr.starts_with(&format!("{missing}: cannot be read: ")), "{stderr}");
    }
    let (code, _, stderr) = run(&mut fanfare(&["--config", &path("invalid/syntax.toml")]));
    assert_eq!(code, 2);
    assert!(stderr.contains("not TOML"), "{stderr}");
}

#[test]
fn bad_flags_are_refused() {
    for arguments in [
        &["--unknown"][..],
        &["check"],
        &["nonsense"],
        &["--config"],
        &["check", "--config", "x", "--listen", "127.0.0.1:0"],
    ] {
        let (code, stdout, stderr) = run(&mut fanfare(arguments));
        assert_eq!((code, stdout.as_str()), (2, ""), "{arguments:?}");
        assert!(stderr.starts_with("error: "), "{stderr}");
    }
    let (code, _, stderr) = run(&mut fanfare(&["--listen", "127.0.0.1"]));
    assert_eq!(code, 2);
    assert!(stderr.starts_with("--listen: server.listen[0]: expected \"host:port\""), "{stderr}");
}

#[test]
fn the_version_is_told() {
    let (code, stdout, _) = run(&mut fanfare(&["--version"]));
    assert_eq!((code, stdout.as_str()), (0, concat!("fanfare ", env!("CARGO_PKG_VERSION"), "\n")));
}

#[test]
fn the_development_app_is_not_shown_to_other_machines() {
    let (code, stdout, stderr) = run(&mut fanfare(&["--listen", "0.0.0.0:0"]));
    assert_eq!((code, stdout.as_str()), (2, ""));
    assert!(stderr.contains("apps[0].secret") && stderr.contains("--insecure-dev-app"), "{stderr}");
}

#[test]
fn a_stop_by_signal_is_a_success() {
    for (signal, arguments) in [
        ("-TERM", &["--listen", "127.0.0.1:0"][..]),
        ("-INT", &["serve", "--listen", "0.0.0.0:0", "--insecure-dev-app", "--listen", "127.0.0.1:0"]),
    ] {
        let mut serving = Serving::start(fanfare(arguments).env("FANFARE_ADMIN__LISTEN", "127.0.0.1:0"));
        let public = arguments.iter().filter(|word| word.ends_with(":0")).count();
        for _ in 0..public {
            let line = serving.line();
            assert!(
                line.starts_with("fanfare: listening on http://") && line.ends_with(" (public)"),
                "{line}"
            );
        }
        let line = serving.line();
        assert!(
            line.starts_with("fanfare: listening on http://127.0.0.1:") && line.ends_with(" (admin)"),
            "{line}"
        );
        let (code, stdout, stderr) = serving.stop(signal);
        assert_eq!(code, 0, "{stderr}");
        assert!(stdout.contains("new Pusher(\"app-key\""), "{stdout}");
        assert!(!stdout.contains("app-secret") && !stderr.contains("app-secret"));
    }
}

#[test]
fn a_configured_app_gets_no_banner() {
    let file = path("valid/any_port.toml");
    let mut serving = Serving::start(&mut fanfare(&["--config", &file]));
    assert!(serving.line().ends_with(" (public)"));
    assert!(serving.line().ends_with(" (admin)"));
    assert!(serving.line().starts_with("fanfare: up to "));
    let (code, stdout, stderr) = serving.stop("-TERM");
    assert_eq!((code, stdout.as_str()), (0, ""), "{stderr}");
}

#[test]
fn a_port_in_use_is_told_in_a_line() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let any = "127.0.0.1:0";
    for (listen, admin) in [(address.as_str(), any), (any, &address)] {
        let mut command = fanfare(&["--listen", listen]);
        let (code, stdout, stderr) =
            run(command.env("FANFARE_ADMIN__LISTEN", admin).env("FANFARE_LOG__LEVEL", "off"));
        assert_eq!((code, stdout.as_str()), (1, ""), "{stderr}");
        assert!(stderr.starts_with("fanfare: ") && stderr.contains(&address), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
    }
}

/// The program under a shell that sets limits of open files first.
fn limited(limits: &str) -> Command {
    let mut command = Command::new("sh");
    let program = env!("CARGO_BIN_EXE_fanfare");
    command.args(["-c", &format!("{limits} && exec {program} --listen 127.0.0.1:0")]);
    command.env_clear().env("FANFARE_ADMIN__LISTEN", "127.0.0.1:0").stdin(Stdio::null());
    command
}

#[test]
fn the_limit_of_open_files_is_raised_and_what_fits_is_told() {
    for (limits, told, warns) in [
        ("ulimit -Sn 1024 && ulimit -Hn 12000", "up to 11,744 sockets (open files: 12,000)", false),
        ("ulimit -Sn 1000 && ulimit -Hn 1000", "up to 744 sockets (open files: 1,000)", true),
    ] {
        let mut serving = Serving::start(&mut limited(limits));
        assert!(serving.line().ends_with(" (public)"));
        assert!(serving.line().ends_with(" (admin)"));
        assert_eq!(serving.line(), format!("fanfare: {told}"));
        let proc = format!("/proc/{}/limits", serving.child.id());
        let in_force = std::fs::read_to_string(proc).expect("a process");
        let files = in_force.lines().find(|line| line.starts_with("Max open files")).expect("a limit");
        let numbers: Vec<_> = files.split_whitespace().skip(3).take(2).collect();
        assert_eq!(numbers[0], numbers[1], "soft and hard: {files}");
        let (code, _, stderr) = serving.stop("-TERM");
        assert_eq!(code, 0, "{stderr}");
        let warnings = stderr.lines().filter(|line| line.contains("WARN") && line.contains("sockets fit"));
        assert_eq!(warnings.count(), usize::from(warns), "{stderr}");
    }
}
