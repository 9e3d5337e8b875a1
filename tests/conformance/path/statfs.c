/* statfs, fstatfs, statvfs: sane numbers. */
#include "check.h"
#include <sys/statvfs.h>
#include <sys/vfs.h>

int main(void)
{
    struct statfs here, same;
    CHECK_EQ(statfs(".", &here), 0);
    CHECK(here.f_bsize >= 512);
    CHECK(here.f_blocks >= here.f_bfree && here.f_bfree >= here.f_bavail);
    CHECK(here.f_blocks > 0);
    CHECK_EQ(here.f_namelen, 255);
    int fd = make_file("f", "");
    CHECK_EQ(fstatfs(fd, &same), 0);
    CHECK_EQ(same.f_type, here.f_type);
    CHECK_EQ(same.f_bsize, here.f_bsize);
    CHECK_EQ(statfs("/proc", &same), 0);
    CHECK_EQ(same.f_type, 0x9fa0);
    CHECK_EQ(statfs("/dev/shm", &same), 0);
    CHECK_EQ(same.f_type, 0x01021994);
    CHECK_ERR(statfs("missing", &same), ENOENT);
    CHECK_ERR(fstatfs(999, &same), EBADF);
    struct statvfs posix;
    CHECK_EQ(statvfs(".", &posix), 0);
    CHECK_EQ(posix.f_namemax, 255);
    CHECK_EQ(posix.f_flag & ST_RDONLY, 0);
    return check_result();
}
