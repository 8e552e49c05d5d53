//! How much memory a new allocation may take, as the system and a container see it.

/// Bytes that can be taken without swapping: what the system calls available, or what the control
/// group still allows, whichever is less. `None` where the system does not say.
pub fn available_bytes() -> Option<u64> {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let system = meminfo_available(&read("/proc/meminfo")?)?;
    let group = cgroup_left(
        read("/sys/fs/cgroup/memory.max").as_deref(),
        read("/sys/fs/cgroup/memory.current").as_deref(),
        read("/sys/fs/cgroup/memory.stat").as_deref(),
    );
    Some(group.map_or(system, |group| group.min(system)))
}

/// `MemAvailable` of `/proc/meminfo` (proc(5)), which is in units of 1024 bytes.
fn meminfo_available(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kilobytes.checked_mul(1024)
}

/// What a version 2 control group leaves: its limit less what is charged to it, where cached file
/// pages do not count because the kernel drops them first. `None` without a limit.
fn cgroup_left(max: Option<&str>, current: Option<&str>, stat: Option<&str>) -> Option<u64> {
    let max: u64 = max?.trim().parse().ok()?;
    let current: u64 = current?.trim().parse().ok()?;
    let file = |key: &str| -> Option<u64> {
        let line = stat?.lines().find_map(|line| line.strip_prefix(key))?;
        line.trim().parse().ok()
    };
    let dropped = file("inactive_file ").unwrap_or(0) + file("active_file ").unwrap_or(0);
    Some(max.saturating_sub(current.saturating_sub(dropped)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_says_what_is_available() {
        let meminfo = "MemTotal:       24000 kB\nMemAvailable:   16384 kB\n";
        assert_eq!(meminfo_available(meminfo), Some(16 << 20));
        assert_eq!(meminfo_available("MemTotal: 1 kB\n"), None);
    }

    #[test]
    fn a_container_allows_its_limit_less_what_it_cannot_drop() {
        let stat = "anon 5\ninactive_file 30\nactive_file 10\n";
        let left = cgroup_left(Some("100\n"), Some("60\n"), Some(stat));
        assert_eq!(left, Some(80));
        assert_eq!(cgroup_left(Some("max\n"), Some("60\n"), Some(stat)), None);
        assert_eq!(cgroup_left(None, None, None), None);
    }
}
