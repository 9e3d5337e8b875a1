/* fsync, fdatasync, sync_file_range, syncfs, posix_fadvise, readahead: success and errors. */
#include "check.h"

int main(void)
{
    int fd = make_file("f", "data"), folder = open(".", O_RDONLY | O_DIRECTORY), ends[2];
    MUST(pipe(ends) == 0);
    CHECK_EQ(fsync(fd), 0);
    CHECK_EQ(fdatasync(fd), 0);
    CHECK_EQ(fsync(folder), 0);
    CHECK_EQ(syncfs(fd), 0);
    CHECK_ERR(fsync(999), EBADF);
    CHECK_ERR(fsync(ends[0]), EINVAL);
    CHECK_ERR(fdatasync(ends[1]), EINVAL);
    CHECK_ERR(syncfs(999), EBADF);
    CHECK_EQ(sync_file_range(fd, 0, 0, SYNC_FILE_RANGE_WRITE), 0);
    CHECK_ERR(sync_file_range(fd, 0, 0, 0x100), EINVAL);
    CHECK_EQ(posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL), 0);
    CHECK_EQ(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED), 0);
    CHECK_EQ(posix_fadvise(fd, 0, 0, 1234), EINVAL);
    CHECK_EQ(posix_fadvise(ends[0], 0, 0, POSIX_FADV_NORMAL), ESPIPE);
    CHECK_EQ(posix_fadvise(999, 0, 0, POSIX_FADV_NORMAL), EBADF);
    CHECK_EQ(readahead(fd, 0, 4096), 0);
    int synced = open("f", O_WRONLY | O_SYNC | O_APPEND);
    CHECK(synced >= 0);
    CHECK_EQ(fcntl(synced, F_GETFL) & O_SYNC, O_SYNC);
    CHECK_EQ(write(synced, "more", 4), 4);
    CHECK_STR(read_file("f"), "datamore");
    sync();
    return check_result();
}
