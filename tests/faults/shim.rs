//! Faults that only the machine of a process has: steps of its wall clock, and refused threads.
//!
//! Input: a C compiler, which the build of the operator needs too. Output: environment variables that
//! load `shim.c` into an operator, and the controls of that operator.
//! Invariants: the operator is the one that is released; it contains nothing of this.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use testkit::folder::ScratchDir;

use crate::case::Skipped;

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/faults/shim.c");

/// Places of the numbers in the file that the shim shares.
#[derive(Clone, Copy)]
enum Field {
    Offset,
    ClockReads,
    ThreadError,
    RefusedThreads,
}

impl Field {
    const COUNT: usize = 4;

    const fn place(self) -> u64 {
        self as u64 * size_of::<i64>() as u64
    }
}

/// The shim of one process.
pub struct Shim {
    folder: ScratchDir,
    controls: File,
}

impl Shim {
    /// Compiles the shim. It changes nothing yet.
    ///
    /// # Errors
    /// [`Skipped`] if no C compiler can build it.
    pub fn build() -> Result<Self> {
        let folder = ScratchDir::new("shim")?;
        let compiled = Command::new("cc")
            .args(["-shared", "-fPIC", "-O2", "-o"])
            .arg(folder.path().join("shim.so"))
            .args([SOURCE, "-ldl"])
            .output();
        match compiled {
            Err(error) => return Err(Skipped(format!("cc cannot be run: {error}")).into()),
            Ok(output) if !output.status.success() => {
                let error = String::from_utf8_lossy(&output.stderr).into_owned();
                return Err(Skipped(format!("cc cannot build the shim: {error}")).into());
            }
            Ok(_) => {}
        }
        let controls = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(folder.path().join("controls"))?;
        controls.set_len((Field::COUNT * size_of::<i64>()) as u64)?;
        Ok(Self { folder, controls })
    }

    /// What the process needs in its environment.
    pub fn env(&self) -> Vec<(String, String)> {
        let path = |name: &str| self.folder.path().join(name).display().to_string();
        vec![
            ("LD_PRELOAD".to_owned(), path("shim.so")),
            ("FAULT_SHIM".to_owned(), path("controls")),
        ]
    }

    /// Checks that a process has loaded the shim and read its clock.
    ///
    /// # Errors
    /// [`Skipped`] if not, as with a binary that is linked statically.
    pub fn ensure_loaded(&self) -> Result<()> {
        if self.read(Field::ClockReads)? == 0 {
            let reason = "the operator's binary does not load shared libraries";
            return Err(Skipped(reason.to_owned()).into());
        }
        Ok(())
    }

    /// Moves the wall clock so that it is off by this many seconds.
    pub fn set_clock_offset(&self, seconds: i64) -> Result<()> {
        self.write(Field::Offset, seconds)
    }

    /// How often the process has read its wall clock.
    pub fn clock_reads(&self) -> Result<i64> {
        self.read(Field::ClockReads)
    }

    /// From now on, no thread starts. `error` is the number of the error, 0 ends the fault.
    pub fn refuse_threads(&self, error: i64) -> Result<()> {
        self.write(Field::ThreadError, error)
    }

    /// How many threads were refused.
    pub fn refused_threads(&self) -> Result<i64> {
        self.read(Field::RefusedThreads)
    }

    fn read(&self, field: Field) -> Result<i64> {
        let mut bytes = [0; 8];
        self.controls
            .read_exact_at(&mut bytes, field.place())
            .context("the controls of the shim")?;
        Ok(i64::from_ne_bytes(bytes))
    }

    fn write(&self, field: Field, value: i64) -> Result<()> {
        let written = self
            .controls
            .write_at(&value.to_ne_bytes(), field.place())
            .context("the controls of the shim")?;
        ensure!(written == 8, "{written} bytes of the controls");
        Ok(())
    }
}
