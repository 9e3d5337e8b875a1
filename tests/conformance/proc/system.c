/* The system files of /proc that programs read, sysinfo, uname, sysconf, sched_getaffinity: present, well formed, agreeing. */
#include "check.h"
#include <dirent.h>
#include <sched.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>

static long field(const char *path, const char *name)
{
    char *text = read_file(path);
    if (!text) return -1;
    char *line = strstr(text, name);
    return line ? atol(line + strlen(name)) : -1;
}

int main(void)
{
    long total = field("/proc/meminfo", "MemTotal:"), available = field("/proc/meminfo", "MemAvailable:");
    CHECK(total > 10000);
    CHECK(available > 0 && available <= total);
    CHECK(field("/proc/meminfo", "MemFree:") >= 0);
    CHECK(field("/proc/meminfo", "SwapTotal:") >= 0);
    struct sysinfo info;
    CHECK_EQ(sysinfo(&info), 0);
    CHECK_EQ(info.totalram * info.mem_unit / 1024, total);
    CHECK(info.uptime > 0 || info.procs > 0);
    CHECK(info.procs > 0);

    cpu_set_t set;
    CHECK_EQ(sched_getaffinity(0, sizeof set, &set), 0);
    CHECK(CPU_COUNT(&set) >= 1);
    CHECK_EQ(sysconf(_SC_NPROCESSORS_ONLN) >= CPU_COUNT(&set), 1);
    CHECK(sched_getcpu() >= 0);
    char *text = read_file("/proc/cpuinfo");
    int processors = 0;
    for (char *p = text; p && (p = strstr(p, "processor\t:")); p++) processors++;
    CHECK(processors >= 1);
    text = read_file("/proc/cpuinfo");
    CHECK(text && strstr(text, "\nflags\t") != NULL);

    text = read_file("/proc/stat");
    CHECK(text && strncmp(text, "cpu  ", 5) == 0 && strstr(text, "\nbtime ") != NULL && strstr(text, "\ncpu0 ") != NULL);
    text = read_file("/proc/uptime");
    double up = -1, idle = -1;
    CHECK(text && sscanf(text, "%lf %lf", &up, &idle) == 2 && up >= 0);
    text = read_file("/proc/loadavg");
    double load;
    int running, all, last;
    CHECK(text && sscanf(text, "%lf %*f %*f %d/%d %d", &load, &running, &all, &last) == 4);
    text = read_file("/proc/version");
    CHECK(text && strncmp(text, "Linux version ", 14) == 0);
    text = read_file("/proc/filesystems");
    CHECK(text && strstr(text, "tmpfs\n") != NULL);
    text = read_file("/proc/cmdline");
    CHECK(text != NULL);
    text = read_file("/proc/mounts");
    CHECK(text && strstr(text, " / ") != NULL);
    CHECK(read_file("/proc/net/dev") != NULL && strstr(read_file("/proc/net/dev"), "lo:") != NULL);
    CHECK(read_file("/proc/net/tcp") != NULL);
    CHECK(read_file("/proc/net/unix") != NULL);
    CHECK(read_file("/proc/vmstat") != NULL);

    /* sysctl files. */
    struct utsname name;
    CHECK_EQ(uname(&name), 0);
    CHECK_STR(name.sysname, "Linux");
    CHECK_STR(name.machine, "x86_64");
    char line[128];
    snprintf(line, sizeof line, "%s\n", name.nodename);
    CHECK_STR(read_file("/proc/sys/kernel/hostname"), line);
    snprintf(line, sizeof line, "%s\n", name.release);
    CHECK_STR(read_file("/proc/sys/kernel/osrelease"), line);
    CHECK_STR(read_file("/proc/sys/kernel/ostype"), "Linux\n");
    CHECK(atol(read_file("/proc/sys/kernel/pid_max")) > 100);
    CHECK(read_file("/proc/sys/vm/overcommit_memory") != NULL);
    CHECK(atol(read_file("/proc/sys/fs/pipe-max-size")) >= 65536);
    char *uuid = read_file("/proc/sys/kernel/random/uuid");
    CHECK(uuid && strlen(uuid) == 37);
    char first[40];
    strcpy(first, uuid ? uuid : "");
    uuid = read_file("/proc/sys/kernel/random/uuid");
    CHECK(uuid && strcmp(first, uuid) != 0);
    CHECK(strlen(read_file("/proc/sys/kernel/random/boot_id")) == 37);
    CHECK(atol(read_file("/proc/sys/net/core/somaxconn")) > 0);

    /* /proc lists this process and its parent; numbers of nobody are not there. */
    DIR *folder = opendir("/proc");
    MUST(folder != NULL);
    bool own = false, parent = getppid() == 0;
    for (struct dirent *entry; (entry = readdir(folder));) {
        own |= atoi(entry->d_name) == getpid();
        parent |= atoi(entry->d_name) == getppid();
    }
    CHECK(own && parent);
    struct stat status;
    CHECK_ERR(stat("/proc/99999999", &status), ENOENT);
    CHECK_ERR(mkdir("/proc/new", 0755), ENOENT);
    CHECK(open("/proc/new-file", O_CREAT | O_RDWR, 0644) == -1);

    /* /sys: what libraries ask for. */
    text = read_file("/sys/devices/system/cpu/online");
    CHECK(text && text[0] == '0');
    CHECK(read_file("/sys/devices/system/cpu/possible") != NULL);
    CHECK_EQ(stat("/sys/devices/system/cpu/cpu0", &status), 0);
    CHECK_EQ(stat("/sys/fs/cgroup", &status), 0);
    CHECK_EQ(stat("/sys/class/net/lo", &status), 0);

    /* A short read in pieces gives the same as a long one. */
    int fd = open("/proc/self/status", O_RDONLY);
    char piece[7];
    ssize_t n;
    int size = 0;
    while ((n = read(fd, piece, sizeof piece)) > 0) size += n;
    CHECK(size > 300);
    CHECK_EQ(lseek(fd, 0, SEEK_SET), 0);
    CHECK_EQ(read(fd, piece, 5), 5);
    CHECK(memcmp(piece, "Name:", 5) == 0);
    return check_result();
}
