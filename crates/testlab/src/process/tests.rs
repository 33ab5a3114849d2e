use super::*;

const LIMIT: Duration = Duration::from_secs(10);

fn shell(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    command
}

#[test]
fn lines_are_found_however_early_they_came() -> Result<()> {
    let process = Proc::spawn(&mut shell("echo one; echo two >&2; exec sleep 100"))?;
    process.wait_line(|line| line == "two", LIMIT)?;
    process.wait_line(|line| line == "one", LIMIT)?;
    assert_eq!(process.stdout(), "one\n");
    Ok(())
}

#[test]
fn a_line_has_the_time_when_it_was_read() -> Result<()> {
    let start = Instant::now();
    let process = Proc::spawn(&mut shell("echo one >&2; sleep 1; echo two; exec sleep 100"))?;
    let two = process.wait_line_at(|line| line == "two", LIMIT)?;
    let one = process.wait_line_at(|line| line == "one", LIMIT)?;
    assert_eq!((one.stream, two.stream), (Stream::Stderr, Stream::Stdout));
    assert!(one.at >= start && two.at >= one.at + Duration::from_millis(100), "{one:?} {two:?}");
    assert!(two.at <= Instant::now());
    Ok(())
}

#[test]
fn a_line_that_never_comes_is_an_error_with_all_output() -> Result<()> {
    let process = Proc::spawn(&mut shell("echo printed; exec sleep 100"))?;
    process.wait_line(|line| line == "printed", LIMIT)?;
    let missing = process.wait_line(|line| line == "absent", Duration::from_millis(10));
    match missing {
        Err(Error::TimedOut { output, .. }) => assert_eq!(output, "printed\n"),
        other => panic!("not a time-out: {other:?}"),
    }
    Ok(())
}

#[test]
fn a_program_that_ends_early_is_not_waited_for() -> Result<()> {
    let process = Proc::spawn(&mut shell("echo last; exit 3"))?;
    match process.wait_line(|line| line == "absent", LIMIT) {
        Err(Error::Ended { status, output, .. }) => {
            assert_eq!((status.code(), output.as_str()), (Some(3), "last\n"));
        }
        other => panic!("not an early end: {other:?}"),
    }
    Ok(())
}

#[test]
fn the_last_line_counts_without_its_newline() -> Result<()> {
    assert_eq!(run(&mut shell("printf 'a\\nb'"), LIMIT)?, "a\nb\n");
    Ok(())
}

#[test]
fn failure_is_an_error_with_the_status() {
    match run(&mut shell("echo why >&2; exit 7"), LIMIT) {
        Err(Error::Failed { status, output, .. }) => {
            assert_eq!((status.code(), output.as_str()), (Some(7), "why\n"));
        }
        other => panic!("not a failure: {other:?}"),
    }
}

#[test]
fn a_signal_reaches_the_program() -> Result<()> {
    let script = "trap 'echo caught; exit 5' TERM; echo ready; while :; do sleep 0.01; done";
    let process = Proc::spawn(&mut shell(script))?;
    process.wait_line(|line| line == "ready", LIMIT)?;
    process.signal(15)?;
    assert_eq!(process.wait_exit(LIMIT)?.code(), Some(5));
    assert_eq!(process.output(), "ready\ncaught\n");
    Ok(())
}

#[test]
fn a_dropped_program_is_dead() -> Result<()> {
    let process = Proc::spawn(&mut shell("echo ready; exec sleep 100"))?;
    process.wait_line(|line| line == "ready", LIMIT)?;
    let folder = format!("/proc/{}", process.pid());
    drop(process);
    assert!(!std::path::Path::new(&folder).exists());
    Ok(())
}

#[test]
fn what_a_program_does_is_waited_for_as_long_as_it_runs() -> Result<()> {
    let folder = tempfile::TempDir::new().map_err(Error::io("create a folder"))?;
    let (made, absent) = (folder.path().join("made"), folder.path().join("absent"));
    let mut command = shell("sleep 0.1; touch \"$0\"; exec sleep 100");
    let process = Proc::spawn(command.arg(&made))?;
    process.wait_for(|| made.exists().then_some(()), LIMIT)?;
    let limit = Duration::from_millis(10);
    let waited = process.wait_for(|| absent.exists().then_some(()), limit);
    assert!(matches!(waited, Err(Error::TimedOut { limit: l, .. }) if l == limit), "{waited:?}");
    process.signal(SIGKILL)?;
    let waited = process.wait_for(|| absent.exists().then_some(()), LIMIT);
    assert!(matches!(waited, Err(Error::Ended { .. })), "{waited:?}");
    process.wait_for(|| made.exists().then_some(()), LIMIT)
}
