//! What this process costs the host.

use std::time::Duration;

/// Processor time of the calling thread so far, where the system tells; otherwise the time that passed.
pub(super) fn thread_time() -> Duration {
    cfg_select! {
        unix => { clock(libc::CLOCK_THREAD_CPUTIME_ID) }
        _ => {
            static START: std::sync::LazyLock<std::time::Instant> = std::sync::LazyLock::new(std::time::Instant::now);
            START.elapsed()
        }
    }
}

/// Processor time of all threads of this process so far, where the system tells. A software device runs its
/// shaders on them.
pub fn process_time() -> Option<Duration> {
    cfg_select! {
        unix => { Some(clock(libc::CLOCK_PROCESS_CPUTIME_ID)) }
        _ => { None }
    }
}

#[cfg(unix)]
fn clock(number: libc::clockid_t) -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` outlives the call, and zero is a good answer should it fail.
    unsafe { libc::clock_gettime(number, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// The most memory that this process ever had, in bytes: known on Linux and Android.
pub fn peak_host_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}
