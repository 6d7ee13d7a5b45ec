//! The program that is asked, and the two threads that talk to it: the engine never waits in a
//! pipe. There is one question at a time; a program that says more than it is asked is read no
//! further until the engine has taken that.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, TrySendError};

use super::protocol::Hello;

/// Longest answer, in bytes.
const MAX_ANSWER_BYTES: u64 = 16 << 20;
/// Answers that may be read ahead of their questions.
const MAX_READ_AHEAD: usize = 4;
/// A program that has closed its end is given so long to end, so that its status can be told.
const ENDING: Duration = Duration::from_millis(200);

/// A running program. It is killed when this is dropped.
pub(super) struct Link {
    child: std::cell::RefCell<Child>,
    questions: Sender<String>,
    answers: Receiver<String>,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Silence {
    /// It may still come.
    NotYet,
    /// It never will: how the program ended.
    Ended(String),
}

impl Link {
    /// Starts the program, its arguments behind it, and greets it.
    pub(super) fn start(words: &[String], hello: &Hello) -> std::io::Result<Self> {
        let (program, arguments) = words.split_first().ok_or(std::io::ErrorKind::InvalidInput)?;
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let (Some(input), Some(output)) = (input, output) else {
            return Err(std::io::ErrorKind::BrokenPipe.into());
        };
        // The greeting and one question may wait.
        let (questions, to_write) = crossbeam_channel::bounded::<String>(2);
        let (read, answers) = crossbeam_channel::bounded(MAX_READ_AHEAD);
        let thread = || std::thread::Builder::new().name("folio-policy".into());
        thread().spawn(move || write_lines(input, &to_write))?;
        thread().spawn(move || read_lines(output, &read))?;
        let greeting = hello.line().map_err(std::io::Error::other)?;
        let _ = questions.try_send(greeting);
        Ok(Self { child: child.into(), questions, answers })
    }

    /// Sends a question; says how the program has ended if it has.
    pub(super) fn ask(&self, line: String) -> Result<(), String> {
        self.questions.try_send(line).map_err(|error| match error {
            TrySendError::Full(_) => "it does not read".to_owned(),
            TrySendError::Disconnected(_) => self.ended(),
        })
    }

    /// The next answer, waited for as long as `patience`.
    pub(super) fn answer(&self, patience: Duration) -> Result<String, Silence> {
        if patience.is_zero() {
            return self.answers.try_recv().map_err(|error| match error {
                TryRecvError::Empty => Silence::NotYet,
                TryRecvError::Disconnected => Silence::Ended(self.ended()),
            });
        }
        self.answers.recv_timeout(patience).map_err(|error| match error {
            RecvTimeoutError::Timeout => Silence::NotYet,
            RecvTimeoutError::Disconnected => Silence::Ended(self.ended()),
        })
    }

    /// How the program ended, which it has or is about to.
    fn ended(&self) -> String {
        let mut child = self.child.borrow_mut();
        // A channel nobody sends on is a clock that the engine's own time has no part in.
        let (_still, never) = crossbeam_channel::bounded::<()>(0);
        for _ in 0..10 {
            match child.try_wait() {
                Ok(Some(status)) => return format!("it ended ({status})"),
                Ok(None) => drop(never.recv_timeout(ENDING / 10)),
                Err(error) => return format!("it ended ({error})"),
            }
        }
        "it closed its output".to_owned()
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let child = self.child.get_mut();
        // Both fail only for a program that is gone.
        let _ = child.kill();
        let _ = child.wait();
    }
}

fn write_lines(mut input: ChildStdin, lines: &Receiver<String>) {
    for line in lines {
        if input.write_all(line.as_bytes()).and_then(|()| input.flush()).is_err() {
            return; // the reader learns of the end
        }
    }
}

fn read_lines(output: ChildStdout, answers: &Sender<String>) {
    let mut output = BufReader::new(output);
    loop {
        let mut line = Vec::new();
        let read = output.by_ref().take(MAX_ANSWER_BYTES).read_until(b'\n', &mut line);
        match read {
            Ok(num_bytes) if num_bytes > 0 && line.ends_with(b"\n") => {
                let line = String::from_utf8_lossy(&line).into_owned();
                if answers.send(line).is_err() {
                    return;
                }
            }
            // The end, or a line without one.
            _ => return,
        }
    }
}
