//! The tree of sysfs: CPUs, the one memory node, kernel settings, the loopback interface.

use crate::fs::proc::{cpu_list, cpu_mask, memory_figures, online_cpus, visible_cpus};
use crate::fs::pseudo::tree::Tree;
use crate::Kernel;
use skerry_control::Network;

/// Caches of a CPU: level, type, size, ways, sets, shared by all. Plain figures: programs size buffers by them.
static CACHES: &[(u32, &str, &str, u32, u32, bool)] = &[
    (1, "Data", "32K", 8, 64, false),
    (1, "Instruction", "32K", 8, 64, false),
    (2, "Unified", "1024K", 16, 1024, false),
    (3, "Unified", "32768K", 16, 32768, true),
];

pub(super) fn add(tree: &mut Tree, kernel: &Kernel) {
    for directory in [
        "block",
        "bus",
        "class/block",
        "class/mem",
        "class/misc",
        "class/tty",
        "class/net",
        "dev/block",
        "dev/char",
        "devices/platform",
        "devices/virtual/mem",
        "devices/virtual/misc",
        "devices/virtual/tty",
        "firmware",
        "fs/cgroup",
        "kernel/debug",
        "kernel/security",
        "kernel/tracing",
        "module",
        "power",
    ] {
        tree.add_directory(directory);
    }
    add_cpus(tree, visible_cpus(kernel));
    add_node(tree, visible_cpus(kernel));
    add_kernel(tree);
    if kernel.network != Network::None {
        add_loopback(tree);
    }
}

fn add_cpus(tree: &mut Tree, cpus: usize) {
    const BASE: &str = "devices/system/cpu";
    for name in ["online", "possible", "present", "enabled"] {
        tree.add_file(&format!("{BASE}/{name}"), |kernel| Ok(format!("{}\n", online_cpus(kernel)).into_bytes()));
    }
    tree.add_text(&format!("{BASE}/offline"), "");
    tree.add_text(&format!("{BASE}/isolated"), "");
    tree.add_text(&format!("{BASE}/kernel_max"), "255");
    tree.add_text(&format!("{BASE}/smt/active"), "0");
    tree.add_text(&format!("{BASE}/smt/control"), "notsupported");
    tree.add_directory(&format!("{BASE}/cpufreq"));
    tree.add_directory(&format!("{BASE}/cpuidle"));
    tree.add_directory(&format!("{BASE}/vulnerabilities"));
    tree.add_text("devices/system/clocksource/clocksource0/available_clocksource", "tsc");
    tree.add_text("devices/system/clocksource/clocksource0/current_clocksource", "tsc");
    for cpu in 0..cpus {
        let own = format!("{BASE}/cpu{cpu}");
        if cpu != 0 {
            tree.add_text(&format!("{own}/online"), "1");
        }
        tree.add_link(&format!("{own}/subsystem"), "../../../../bus/cpu");
        tree.add_link(&format!("{own}/node0"), "../../node/node0");
        add_topology(tree, &own, cpu, cpus);
        add_caches(tree, &own, cpu, cpus);
    }
}

fn single_cpu_mask(cpu: usize) -> String {
    let mut text = format!("{:x}", 1u32 << (cpu % 32));
    for _ in 0..cpu / 32 {
        text.push_str(",00000000");
    }
    text
}

fn add_topology(tree: &mut Tree, own: &str, cpu: usize, cpus: usize) {
    let topology = format!("{own}/topology");
    for name in ["core_id", "cluster_id"] {
        tree.add_text(&format!("{topology}/{name}"), if name == "core_id" { cpu.to_string() } else { "65535".into() });
    }
    for name in ["physical_package_id", "die_id"] {
        tree.add_text(&format!("{topology}/{name}"), "0");
    }
    for name in ["thread_siblings", "core_cpus", "cluster_cpus"] {
        tree.add_text(&format!("{topology}/{name}"), single_cpu_mask(cpu));
        tree.add_text(&format!("{topology}/{name}_list"), cpu.to_string());
    }
    for name in ["core_siblings", "die_cpus", "package_cpus"] {
        tree.add_text(&format!("{topology}/{name}"), cpu_mask(cpus));
        tree.add_text(&format!("{topology}/{name}_list"), cpu_list(cpus));
    }
}

fn add_caches(tree: &mut Tree, own: &str, cpu: usize, cpus: usize) {
    for (index, (level, kind, size, ways, sets, shared)) in CACHES.iter().enumerate() {
        let cache = format!("{own}/cache/index{index}");
        tree.add_text(&format!("{cache}/level"), level.to_string());
        tree.add_text(&format!("{cache}/type"), *kind);
        tree.add_text(&format!("{cache}/size"), *size);
        tree.add_text(&format!("{cache}/ways_of_associativity"), ways.to_string());
        tree.add_text(&format!("{cache}/number_of_sets"), sets.to_string());
        tree.add_text(&format!("{cache}/coherency_line_size"), "64");
        tree.add_text(&format!("{cache}/physical_line_partition"), "1");
        tree.add_text(&format!("{cache}/id"), if *shared { "0".into() } else { cpu.to_string() });
        let (mask, list) = if *shared { (cpu_mask(cpus), cpu_list(cpus)) } else { (single_cpu_mask(cpu), cpu.to_string()) };
        tree.add_text(&format!("{cache}/shared_cpu_map"), mask);
        tree.add_text(&format!("{cache}/shared_cpu_list"), list);
    }
}

fn add_node(tree: &mut Tree, cpus: usize) {
    const BASE: &str = "devices/system/node";
    for name in ["online", "possible", "has_cpu", "has_memory", "has_normal_memory"] {
        tree.add_text(&format!("{BASE}/{name}"), "0");
    }
    let node = format!("{BASE}/node0");
    tree.add_text(&format!("{node}/cpumap"), cpu_mask(cpus));
    tree.add_text(&format!("{node}/cpulist"), cpu_list(cpus));
    tree.add_text(&format!("{node}/distance"), "10");
    tree.add_text(
        &format!("{node}/numastat"),
        "numa_hit 0\nnuma_miss 0\nnuma_foreign 0\ninterleave_hit 0\nlocal_node 0\nother_node 0",
    );
    tree.add_file(&format!("{node}/meminfo"), |kernel| {
        let figures = memory_figures(kernel);
        let row = |name: &str, bytes: u64| format!("Node 0 {:<15} {:>8} kB\n", format!("{name}:"), bytes / 1024);
        let text = row("MemTotal", figures.total)
            + &row("MemFree", figures.free)
            + &row("MemUsed", figures.total.saturating_sub(figures.free))
            + &row("AnonPages", figures.anonymous)
            + &row("Shmem", figures.files);
        Ok(text.into_bytes())
    });
    for cpu in 0..cpus {
        tree.add_link(&format!("{node}/cpu{cpu}"), &format!("../../cpu/cpu{cpu}"));
    }
}

fn add_kernel(tree: &mut Tree) {
    // Guests' memory is the host's: what its setting is matters to them.
    const HUGE: &str = "kernel/mm/transparent_hugepage";
    tree.add_text(&format!("{HUGE}/enabled"), "always [madvise] never");
    tree.add_text(&format!("{HUGE}/defrag"), "always defer defer+madvise [madvise] never");
    tree.add_text(&format!("{HUGE}/shmem_enabled"), "always within_size advise [never] deny force");
    tree.add_text(&format!("{HUGE}/hpage_pmd_size"), "2097152");
    tree.add_text(&format!("{HUGE}/use_zero_page"), "1");
    tree.add_text(&format!("{HUGE}/khugepaged/defrag"), "1");
    for (name, text) in [
        ("nr_hugepages", "0"),
        ("free_hugepages", "0"),
        ("resv_hugepages", "0"),
        ("surplus_hugepages", "0"),
        ("nr_overcommit_hugepages", "0"),
    ] {
        tree.add_text(&format!("kernel/mm/hugepages/hugepages-2048kB/{name}"), text);
    }
    tree.add_text("kernel/mm/ksm/run", "0");
    tree.add_text("kernel/cpu_byteorder", "little");
    tree.add_text("kernel/address_bits", "64");
    tree.add_text("kernel/cgroup/delegate", "cgroup.procs\ncgroup.threads\ncgroup.subtree_control");
    tree.add_text("kernel/cgroup/features", "nsdelegate");
    tree.add_text("power/state", "");
}

fn add_loopback(tree: &mut Tree) {
    const BASE: &str = "devices/virtual/net/lo";
    for (name, text) in [
        ("addr_assign_type", "0"),
        ("addr_len", "6"),
        ("address", "00:00:00:00:00:00"),
        ("broadcast", "00:00:00:00:00:00"),
        ("carrier", "1"),
        ("carrier_changes", "0"),
        ("dev_id", "0x0"),
        ("dev_port", "0"),
        ("dormant", "0"),
        ("flags", "0x9"),
        ("gro_flush_timeout", "0"),
        ("ifalias", ""),
        ("ifindex", "1"),
        ("iflink", "1"),
        ("link_mode", "0"),
        ("mtu", "65536"),
        ("netdev_group", "0"),
        ("operstate", "unknown"),
        ("proto_down", "0"),
        ("tx_queue_len", "1000"),
        ("type", "772"),
        ("uevent", "INTERFACE=lo\nIFINDEX=1"),
    ] {
        tree.add_text(&format!("{BASE}/{name}"), text);
    }
    for name in [
        "collisions",
        "multicast",
        "rx_bytes",
        "rx_compressed",
        "rx_crc_errors",
        "rx_dropped",
        "rx_errors",
        "rx_fifo_errors",
        "rx_frame_errors",
        "rx_length_errors",
        "rx_missed_errors",
        "rx_nohandler",
        "rx_over_errors",
        "rx_packets",
        "tx_aborted_errors",
        "tx_bytes",
        "tx_carrier_errors",
        "tx_compressed",
        "tx_dropped",
        "tx_errors",
        "tx_fifo_errors",
        "tx_heartbeat_errors",
        "tx_packets",
        "tx_window_errors",
    ] {
        tree.add_text(&format!("{BASE}/statistics/{name}"), "0");
    }
    for queue in ["rx-0", "tx-0"] {
        tree.add_directory(&format!("{BASE}/queues/{queue}"));
    }
    tree.add_link(&format!("{BASE}/subsystem"), "../../../../class/net");
    tree.add_link("class/net/lo", "../../devices/virtual/net/lo");
}
