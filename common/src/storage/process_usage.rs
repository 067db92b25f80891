//! What Linux says of a process: its memory and its processor time. The kernel answers from memory, so this blocks no thread.

use std::io::Read;
use std::path::Path;
use std::time::Duration;

use crate::storage::fs;

/// No file that is read here is longer.
const FILE_BYTES: u64 = 16 << 10;
/// The ticks of a second in which Linux counts the time of processes, on every processor that DriftDB runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// A process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProcessOf {
    /// This one.
    Own,
    /// The one with this id.
    Id(u32),
}

impl ProcessOf {
    /// The resident memory in bytes; `None` if the system does not say.
    pub fn resident_bytes(self) -> Option<u64> {
        resident_in(&self.read("status")?)
    }

    /// The processor time that was used, in the kernel and outside of it; `None` if the system does not say.
    pub fn processor_time(self) -> Option<Duration> {
        let ticks = ticks_in(&self.read("stat")?)?;
        let seconds = f64::from(u32::try_from(ticks).ok()?) / TICKS_PER_SECOND;
        Some(Duration::from_secs_f64(seconds))
    }

    fn read(self, name: &str) -> Option<String> {
        let path = match self {
            ProcessOf::Own => format!("/proc/self/{name}"),
            ProcessOf::Id(id) => format!("/proc/{id}/{name}"),
        };
        let mut text = String::new();
        let file = fs::open_input(Path::new(&path)).ok()?;
        file.take(FILE_BYTES).read_to_string(&mut text).ok()?;
        Some(text)
    }
}

/// The figure in a line such as `VmRSS:    1234 kB`.
fn resident_in(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

/// The sum of the 14th and the 15th field. The second is the program's name in brackets, which can contain any character.
fn ticks_in(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace().skip(11).map(str::parse::<u64>);
    fields.next()?.ok()?.checked_add(fields.next()?.ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_of_linux_are_understood() {
        let status = "Name:\tx\nVmPeak:\t  9000 kB\nVmRSS:\t    1234 kB\nRssAnon:\t 1 kB\n";
        assert_eq!(resident_in(status), Some(1234 * 1024));
        let stat = "7 (a ) b 1 2) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 9 0 100 1 1";
        assert_eq!(ticks_in(stat), Some(300));
        assert_eq!((resident_in(""), resident_in("VmRSS: much"), ticks_in("7 (x) S 1")), (None, None, None));
    }

    #[test]
    fn a_process_is_found_by_its_id() {
        if cfg!(target_os = "linux") {
            let own = ProcessOf::Id(std::process::id());
            assert!(own.resident_bytes().is_some_and(|bytes| bytes > 1 << 20));
            assert!(ProcessOf::Own.resident_bytes().is_some() && own.processor_time().is_some());
        }
    }
}
