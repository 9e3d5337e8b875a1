/* Pipes that one thread or process writes and another one reads, and who else reads, looks, closes, signals and waits meanwhile.
 * With arguments: a partner after execve(2), with the descriptors that it reads and writes. */
#include "partners.h"
#include <poll.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/uio.h>

/* What a partner does with a number that it is told, above what it just sends back. */
enum { ECHO, GATE, TAKE, GIVE, ONCE, READERS, CLOSE_READER, LEAVE, EXECUTE, FILTER, FLOOD };

/* Two pipes to a partner: a thread, or a process. */
struct pair { int out, in; int their_in, their_out; bool is_process; pid_t child; pthread_t thread; };

static uint64_t take(int fd)
{
    uint64_t value = 0;
    MUST(read(fd, &value, sizeof value) == sizeof value);
    return value;
}

/* Reads `count` bytes in pieces of many sizes. Whether they are the ones that were written. */
static bool takes_all(int fd, uint64_t count)
{
    static char buffer[300000];
    static const size_t sizes[] = {1, 4096, 131072, 700, 65536, 5000, 300000};
    uint64_t done = 0;
    bool right = true;
    for (int turn = 0; done < count; turn++) {
        size_t size = sizes[turn % 7] < count - done ? sizes[turn % 7] : count - done;
        ssize_t got = read(fd, buffer, size);
        MUST(got > 0 && got <= (ssize_t)size);
        for (ssize_t index = 0; index < got; index++) right &= buffer[index] == pattern(done + index);
        done += got;
    }
    return right;
}

static bool serve(int in, int out)
{
    char buffer[100000];
    uint64_t order = take(in), count = order & COUNT;
    switch (order >> 48) {
    case GATE:
        put(out, order);
        while (atomic_load(gate)) sleep_ms(1);
        break;
    case TAKE: put(out, takes_all(in, count)); break;
    case GIVE: MUST(write(out, data, count) == (ssize_t)count); break;
    case ONCE: put(out, read(in, buffer, count)); break;
    case CLOSE_READER: close(in); put(out, order); return false;
    case LEAVE: return false;
    case EXECUTE: {
        char first[16], second[16];
        snprintf(first, sizeof first, "%d", in);
        snprintf(second, sizeof second, "%d", out);
        execl(self, self, first, second, NULL);
        _exit(1);
    }
    case FILTER: {
        filter_reads();
        uint64_t value;
        CHECK_ERR(read(in, &value, sizeof value), EXDEV);
        put(out, order);
        return false;
    }
    case FLOOD:
        for (uint64_t number = 1;; number++) put(out, number);
    default: put(out, order);
    }
    return true;
}

static void *run(void *argument)
{
    struct pair *it = argument;
    while (serve(it->their_in, it->their_out)) {}
    return NULL;
}

/* So often that it is seen who uses them. */
static void use(struct pair *it)
{
    for (uint64_t round = 1; round <= 40; round++) {
        put(it->out, round);
        CHECK_EQ(take(it->in), round);
    }
}

static struct pair *begin(void)
{
    static struct pair it;
    int there[2], back[2];
    MUST(pipe(there) == 0 && pipe(back) == 0);
    it = (struct pair){there[1], back[0], there[0], back[1], processes, 0, 0};
    if (processes) {
        if ((it.child = child_fork()) == 0) {
            close(it.out);
            close(it.in);
            run(&it);
            child_exit();
        }
        close(it.their_in);
        close(it.their_out);
    } else {
        MUST(pthread_create(&it.thread, NULL, run, &it) == 0);
    }
    use(&it);
    return &it;
}

static void joined(struct pair *it)
{
    if (it->is_process) {
        CHECK_CHILD(it->child);
    } else {
        MUST(pthread_join(it->thread, NULL) == 0);
        close(it->their_in);
        close(it->their_out);
    }
}

static void end(struct pair *it)
{
    put(it->out, ORDER(LEAVE, 0));
    joined(it);
    close(it->out);
    close(it->in);
}

/* The partner does nothing until `opened`. */
static void shut(struct pair *it)
{
    atomic_store(gate, 1);
    put(it->out, ORDER(GATE, 0));
    take(it->in);
}

static void contents(void)
{
    static const size_t sizes[] = {1, 100, 4096, 4097, 10240, 65535, 65536, 65537, 131072, 200000, 1000000};
    struct pair *it = begin();
    for (int round = 0; round < 3; round++) {
        for (size_t index = 0; index < sizeof sizes / sizeof *sizes; index++) {
            put(it->out, ORDER(TAKE, sizes[index]));
            CHECK_EQ(write(it->out, data, sizes[index]), sizes[index]);
            CHECK_EQ(take(it->in), 1);
            put(it->out, ORDER(GIVE, sizes[index]));
            CHECK(takes_all(it->in, sizes[index]));
            if (round == 1) use(it);
        }
    }
    /* Many small ones that the other side is behind with, in pieces that do not go into each other. */
    for (int round = 0; round < 20; round++) {
        put(it->out, ORDER(TAKE, 300000));
        for (size_t done = 0; done < 300000;) {
            size_t length = 1 + (done * 31 + round) % 3000;
            if (length > 300000 - done) length = 300000 - done;
            MUST(write(it->out, data + done, length) == (ssize_t)length);
            done += length;
        }
        CHECK_EQ(take(it->in), 1);
    }
    struct iovec pieces[2] = {{data, 3}, {data + 3, 4}};
    for (int round = 0; round < 50; round++) {
        put(it->out, ORDER(TAKE, 12));
        CHECK_EQ(writev(it->out, pieces, 2), 7);
        CHECK_EQ(write(it->out, data + 7, 5), 5);
        CHECK_EQ(take(it->in), 1);
    }
    end(it);
}

static void settings(void)
{
    struct pair *it = begin();
    struct pollfd look = {.fd = it->out, .events = POLLOUT};
    for (int round = 0; round < 3; round++) {
        /* What is there is what was written, to whoever asks. */
        shut(it);
        MUST(write(it->out, "abc", 3) == 3 && write(it->out, "defgh", 5) == 5);
        CHECK_EQ(queued(it->out), 8);
        MUST(write(it->out, "ijkl", 4) == 4);
        CHECK_EQ(poll(&look, 1, 0), 1);
        CHECK_EQ(queued(it->out), 12);
        MUST(write(it->out, zeros, 4) == 4);
        opened();
        CHECK_EQ(take(it->in), 0x6867666564636261);
        CHECK_EQ(take(it->in), 0x6c6b6a69);
        use(it);
        /* It holds what it holds. */
        shut(it);
        CHECK_EQ(fcntl(it->out, F_SETFL, O_NONBLOCK), 0);
        int count = 0;
        while (write(it->out, zeros, 4096) == 4096) count++;
        CHECK_EQ(count, 16);
        CHECK_ERR(write(it->out, zeros, 1), EAGAIN);
        CHECK_EQ(poll(&look, 1, 0), 0);
        CHECK_EQ(fcntl(it->out, F_GETPIPE_SZ), 65536);
        CHECK_EQ(fcntl(it->out, F_SETFL, 0), 0);
        /* An order without a number: what is left are zeros. */
        opened();
        for (int left = 65536; left > 0; left -= 8) take(it->in);
        use(it);
    }
    CHECK_EQ(fcntl(it->in, F_SETFL, O_NONBLOCK), 0);
    for (int round = 0; round < 50; round++) {
        uint64_t value = 0;
        CHECK_ERR(read(it->in, &value, 8), EAGAIN);
        put(it->out, round + 1);
        while (read(it->in, &value, 8) != 8) {}
        CHECK_EQ(value, round + 1);
    }
    CHECK_EQ(fcntl(it->in, F_SETFL, 0), 0);
    use(it);
    CHECK_EQ(fcntl(it->out, F_SETPIPE_SZ, 4096), 4096);
    use(it);
    put(it->out, ORDER(TAKE, 20000));
    CHECK_EQ(write(it->out, data, 20000), 20000);
    CHECK_EQ(take(it->in), 1);
    CHECK_EQ(fcntl(it->out, F_SETPIPE_SZ, 1 << 20), 1 << 20);
    use(it);
    shut(it);
    CHECK_EQ(write(it->out, zeros, 300000), 300000);
    opened();
    for (int left = 300000; left > 0; left -= 8) take(it->in);
    CHECK_EQ(fcntl(it->out, F_SETPIPE_SZ, 65536), 65536);
    use(it);
    /* Packets. */
    CHECK_EQ(fcntl(it->out, F_SETFL, O_DIRECT), 0);
    put(it->out, ORDER(ONCE, 100));
    CHECK_EQ(write(it->out, data, 30), 30);
    CHECK_EQ(take(it->in), 30);
    CHECK_EQ(fcntl(it->out, F_SETFL, 0), 0);
    use(it);
    end(it);
}

static void signals_come(void)
{
    static const int times[] = {1, 5, 20, 90};
    uint64_t value = 0;
    struct pair *it = begin();
    for (int round = 0; round < 8; round++) {
        int time = times[round % 4];
        /* While it waits to read. */
        shut(it);
        catch_signal(SIGALRM, on_alarm, 0);
        timer_t timer = every(time);
        CHECK_ERR(read(it->in, &value, 8), EINTR);
        timer_delete(timer);
        opened();
        use(it);
        shut(it);
        atomic_store(&handled, 0);
        catch_signal(SIGALRM, on_alarm_open, SA_RESTART);
        put(it->out, round + 1);
        timer = every(time);
        CHECK_EQ(read(it->in, &value, 8), 8);
        timer_delete(timer);
        CHECK_EQ(value, round + 1);
        CHECK(atomic_load(&handled) > 0);
        use(it);
        /* While it waits to write: what has gone is told, and nothing goes twice. */
        for (int restart = 0; restart < 2; restart++) {
            shut(it);
            catch_signal(SIGALRM, on_alarm, restart ? SA_RESTART : 0);
            put(it->out, ORDER(TAKE, 200000));
            timer = every(time);
            ssize_t gone = write(it->out, data, 200000);
            timer_delete(timer);
            CHECK(gone > 50000 && gone < 65537);
            opened();
            CHECK_EQ(write(it->out, data + gone, 200000 - gone), 200000 - gone);
            CHECK_EQ(take(it->in), 1);
            use(it);
        }
        shut(it);
        catch_signal(SIGALRM, on_alarm, 0);
        put(it->out, ORDER(TAKE, 65536));
        for (int piece = 0; piece < 15; piece++) MUST(write(it->out, data + 4096 * piece, 4096) == 4096);
        timer = every(time);
        CHECK_ERR(write(it->out, data + 61440, 4096), EINTR);
        timer_delete(timer);
        opened();
        CHECK_EQ(write(it->out, data + 61440, 4096), 4096);
        CHECK_EQ(take(it->in), 1);
        use(it);
    }
    signal(SIGALRM, SIG_DFL);
    end(it);
}

static void stops(void)
{
    if (!processes) return;
    struct pair *it = begin();
    int status;
    for (int round = 0; round < 6; round++) {
        use(it);
        if (round % 2) sleep_ms(100);
        MUST(kill(it->child, SIGSTOP) == 0 && waitpid(it->child, &status, WUNTRACED) == it->child && WIFSTOPPED(status));
        put(it->out, 5);
        sleep_ms(5);
        CHECK_EQ(queued(it->in), 0);
        MUST(kill(it->child, SIGCONT) == 0);
        CHECK_EQ(take(it->in), 5);
        /* Ourselves, while we wait. */
        shut(it);
        pid_t own = getpid(), other = child_fork();
        if (other == 0) {
            sleep_ms(3);
            kill(own, SIGSTOP);
            sleep_ms(20);
            kill(own, SIGCONT);
            sleep_ms(3);
            opened();
            child_exit();
        }
        put(it->out, 6);
        CHECK_EQ(take(it->in), 6);
        CHECK_CHILD(other);
    }
    end(it);
}

static void somebody_ends(void)
{
    uint64_t value;
    signal(SIGPIPE, SIG_IGN);
    for (int round = 0; round < 4; round++) {
        struct pair *it = begin();
        if (processes) {
            /* Killed: while it waits, and while it writes. */
            if (round % 2) put(it->out, ORDER(FLOOD, 0));
            if (round / 2) sleep_ms(70);
            uint64_t last = 0;
            if (round % 2) for (; last < 20000; last++) MUST(take(it->in) == last + 1);
            MUST(kill(it->child, SIGKILL) == 0);
            ssize_t got;
            while ((got = read(it->in, &value, 8)) == 8) MUST(value == ++last);
            CHECK_EQ(got, 0);
            MUST(waitpid(it->child, NULL, 0) == it->child);
            CHECK_ERR(write(it->out, &value, 8), EPIPE);
        } else {
            put(it->out, ORDER(LEAVE, 0));
            MUST(pthread_join(it->thread, NULL) == 0);
            put(it->out, 7);
            close(it->their_out);
            CHECK_EQ(read(it->in, &value, 8), 0);
            close(it->their_in);
            CHECK_ERR(write(it->out, &value, 8), EPIPE);
        }
        close(it->in);
        close(it->out);
    }
    /* It closes what it reads from, and goes on. */
    struct pair *it = begin();
    put(it->out, ORDER(CLOSE_READER, 0));
    CHECK_EQ(take(it->in), ORDER(CLOSE_READER, 0));
    CHECK_ERR(write(it->out, &value, 8), EPIPE);
    joined(it);
    CHECK_EQ(read(it->in, &value, 8), 0);
    close(it->in);
    close(it->out);
    signal(SIGPIPE, SIG_DFL);
    pid_t child = child_fork();
    if (child == 0) {
        it = begin();
        put(it->out, ORDER(CLOSE_READER, 0));
        take(it->in);
        put(it->out, 1);
        _exit(0);
    }
    CHECK_EQ(wait_status(child), SIGPIPE);
}

static void descriptors_change(void)
{
    struct pair *it = begin();
    int other[2];
    MUST(pipe(other) == 0);
    for (int round = 0; round < 5; round++) {
        /* Two for one end, in turn. */
        int copy = dup(it->out), number = it->out;
        for (uint64_t turn = 1; turn <= 20; turn++) {
            put(turn % 2 ? copy : it->out, turn);
            CHECK_EQ(take(it->in), turn);
        }
        use(it);
        /* Its number stands for another pipe. */
        CHECK_EQ(dup2(other[1], number), number);
        put(number, 99);
        CHECK_EQ(take(other[0]), 99);
        it->out = copy;
        use(it);
        CHECK_EQ(dup2(copy, number), number);
        use(it);
        close(copy);
        it->out = number;
        use(it);
        int reader = dup(it->in);
        put(it->out, 3);
        CHECK_EQ(take(reader), 3);
        close(reader);
        use(it);
    }
    close(other[0]);
    close(other[1]);
    end(it);
}

static void children(void)
{
    struct pair *it = begin();
    for (int round = 0; round < 5; round++) {
        use(it);
        put(it->out, 11);
        pid_t child = child_fork();
        if (child == 0) {
            CHECK_EQ(take(it->in), 11);
            use(it);
            put(it->out, 12);
            child_exit();
        }
        CHECK_CHILD(child);
        CHECK_EQ(take(it->in), 12);
        use(it);
        child = vfork();
        if (child == 0) {
            uint64_t value = 13;
            _exit(write(it->out, &value, 8) != 8 || read(it->in, &value, 8) != 8 || value != 13);
        }
        CHECK_CHILD(child);
        use(it);
        /* Both at once: nothing is lost, and nothing comes twice. */
        child = child_fork();
        if (child == 0) {
            for (uint64_t turn = 0; turn < 500; turn++) put(it->out, 1000);
            child_exit();
        }
        uint64_t sum = 0;
        for (int turn = 0; turn < 500; turn++) {
            put(it->out, 1);
            sum += take(it->in);
        }
        for (int turn = 0; turn < 500; turn++) sum += take(it->in);
        CHECK_EQ(sum, 500500);
        CHECK_CHILD(child);
    }
    if (processes) {
        for (int round = 0; round < 3; round++) {
            put(it->out, ORDER(EXECUTE, 0));
            use(it);
            use(it);
        }
    }
    end(it);
}

static void *waits_for_events(void *argument)
{
    struct pollfd look = {.fd = ((struct pair *)argument)->in, .events = POLLIN};
    CHECK_EQ(poll(&look, 1, 5000), 1);
    return NULL;
}

static void others_watch(void)
{
    struct pair *it = begin();
    struct pollfd look = {.fd = it->in, .events = POLLIN};
    for (uint64_t round = 1; round <= 40; round++) {
        CHECK_EQ(poll(&look, 1, 0), 0);
        put(it->out, round);
        CHECK_EQ(poll(&look, 1, 5000), 1);
        CHECK_EQ(look.revents, POLLIN);
        CHECK_EQ(take(it->in), round);
        fd_set set;
        FD_ZERO(&set);
        FD_SET(it->in, &set);
        put(it->out, round);
        CHECK_EQ(select(it->in + 1, &set, NULL, NULL, NULL), 1);
        CHECK_EQ(take(it->in), round);
        if (round % 10 == 0) use(it);
    }
    struct epoll_event event = {.events = EPOLLIN | EPOLLET};
    int epoll = epoll_create1(0);
    use(it);
    MUST(epoll >= 0 && epoll_ctl(epoll, EPOLL_CTL_ADD, it->in, &event) == 0);
    for (uint64_t round = 1; round <= 100; round++) {
        put(it->out, round);
        CHECK_EQ(told(epoll, 5000), EPOLLIN);
        CHECK_EQ(take(it->in), round);
    }
    close(epoll);
    for (int round = 0; round < 10; round++) {
        pthread_t thread;
        use(it);
        MUST(pthread_create(&thread, NULL, waits_for_events, it) == 0);
        if (round % 2) sleep_ms(3);
        put(it->out, 1);
        MUST(pthread_join(thread, NULL) == 0);
        CHECK_EQ(take(it->in), 1);
    }
    end(it);
}

static void moved(void)
{
    struct pair *it = begin();
    int other[2];
    MUST(pipe(other) == 0);
    for (uint64_t round = 1; round <= 20; round++) {
        use(it);
        put(other[1], round);
        CHECK_EQ(splice(other[0], NULL, it->out, NULL, 8, 0), 8);
        CHECK_EQ(take(it->in), round);
        put(it->out, round);
        CHECK_EQ(splice(it->in, NULL, other[1], NULL, 8, 0), 8);
        CHECK_EQ(take(other[0]), round);
        put(it->out, round);
        while (tee(it->in, other[1], 8, 0) != 8) {}
        CHECK_EQ(take(it->in), round);
        CHECK_EQ(take(other[0]), round);
    }
    close(other[0]);
    close(other[1]);
    /* To somebody else, by a socket. */
    char byte = 'x';
    int carrier[2];
    union { char space[CMSG_SPACE(sizeof(int))]; struct cmsghdr align; } control = {0};
    struct iovec piece = {&byte, 1};
    struct msghdr message = {.msg_iov = &piece, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET, header->cmsg_type = SCM_RIGHTS, header->cmsg_len = CMSG_LEN(sizeof(int));
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, carrier) == 0);
    memcpy(CMSG_DATA(header), &it->in, sizeof(int));
    put(it->out, 21);
    CHECK_EQ(sendmsg(carrier[1], &message, 0), 1);
    CHECK_EQ(close(it->in), 0);
    CHECK_EQ(recvmsg(carrier[0], &message, 0), 1);
    memcpy(&it->in, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(int));
    CHECK_EQ(take(it->in), 21);
    use(it);
    close(carrier[0]);
    close(carrier[1]);
    end(it);
}

static int many_ends[2];

static void *writes_records(void *argument)
{
    char record[1000];
    memset(record, (int)(intptr_t)argument, sizeof record);
    for (int round = 0; round < 1000; round++) MUST(write(many_ends[1], record, sizeof record) == sizeof record);
    return NULL;
}

static void *reads_bytes(void *argument)
{
    char bytes[100];
    ssize_t count;
    while ((count = read(many_ends[0], bytes, sizeof bytes)) > 0)
        for (ssize_t index = 0; index < count; index++) atomic_fetch_add((atomic_int *)argument, bytes[index]);
    CHECK_EQ(count, 0);
    return NULL;
}

/* Several at each end. */
static void crowds(void)
{
    pthread_t writers[4], readers[3];
    char record[1000];
    MUST(pipe(many_ends) == 0);
    pid_t child = 0;
    if (processes && (child = child_fork()) == 0) {
        close(many_ends[0]);
        for (intptr_t index = 0; index < 4; index++) pthread_create(&writers[index], NULL, writes_records, (void *)(index + 1));
        for (int index = 0; index < 4; index++) pthread_join(writers[index], NULL);
        child_exit();
    }
    if (!processes)
        for (intptr_t index = 0; index < 4; index++) pthread_create(&writers[index], NULL, writes_records, (void *)(index + 1));
    else
        close(many_ends[1]);
    int counts[5] = {0};
    for (int round = 0; round < 4000; round++) {
        for (size_t done = 0; done < sizeof record;) {
            ssize_t count = read(many_ends[0], record + done, sizeof record - done);
            MUST(count > 0);
            done += count;
        }
        for (size_t index = 1; index < sizeof record; index++) MUST(record[index] == record[0]);
        counts[(int)record[0]]++;
    }
    for (int index = 1; index < 5; index++) CHECK_EQ(counts[index], 1000);
    if (processes) {
        CHECK_CHILD(child);
        CHECK_EQ(read(many_ends[0], record, 1), 0);
        close(many_ends[0]);
        return;
    }
    for (int index = 0; index < 4; index++) pthread_join(writers[index], NULL);
    atomic_int sum = 0;
    for (int index = 0; index < 3; index++) MUST(pthread_create(&readers[index], NULL, reads_bytes, &sum) == 0);
    memset(record, 1, sizeof record);
    for (int round = 0; round < 2000; round++) MUST(write(many_ends[1], record, 1 + round % 900) == 1 + round % 900);
    close(many_ends[1]);
    for (int index = 0; index < 3; index++) pthread_join(readers[index], NULL);
    int expected = 0;
    for (int round = 0; round < 2000; round++) expected += 1 + round % 900;
    CHECK_EQ(atomic_load(&sum), expected);
    close(many_ends[0]);
}

/* More than a process can have of its own, in turn. */
static void many(void)
{
    enum { PAIRS = 12 };
    struct pair all[PAIRS];
    for (int index = 0; index < PAIRS; index++) {
        int there[2], back[2];
        MUST(pipe(there) == 0 && pipe(back) == 0);
        all[index] = (struct pair){there[1], back[0], there[0], back[1], false, 0, 0};
        MUST(pthread_create(&all[index].thread, NULL, run, &all[index]) == 0);
    }
    for (int round = 0; round < 60; round++) {
        for (int index = 0; index < PAIRS; index++) put(all[index].out, round * 16 + index);
        for (int index = 0; index < PAIRS; index++) CHECK_EQ(take(all[index].in), round * 16 + index);
    }
    for (int index = 0; index < PAIRS; index++) end(&all[index]);
    for (int index = 0; index < 20; index++) end(begin());
}

static void bad_memory(void)
{
    char *page = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    MUST(page != MAP_FAILED && mprotect(page + 4096, 4096, PROT_NONE) == 0);
    struct pair *it = begin();
    for (int round = 0; round < 5; round++) {
        use(it);
        CHECK_ERR(write(it->out, page + 4096, 8), EFAULT);
        CHECK_ERR(write(it->out, (char *)-4096, 8), EFAULT);
        put(it->out, 9);
        CHECK_ERR(read(it->in, page + 4096, 8), EFAULT);
        CHECK_EQ(take(it->in), 9);
    }
    end(it);
    munmap(page, 8192);
}

static void *has_other_descriptors(void *argument)
{
    struct pair *it = argument;
    MUST(unshare(CLONE_FILES) == 0);
    int other[2];
    MUST(pipe(other) == 0);
    use(it);
    MUST(dup2(other[0], it->in) == it->in && dup2(other[1], it->out) == it->out);
    for (uint64_t turn = 1; turn <= 40; turn++) {
        put(it->out, turn);
        CHECK_EQ(take(it->in), turn);
        put(other[1], turn);
        CHECK_EQ(take(it->in), turn);
    }
    return NULL;
}

static void others_have_other_descriptors(void)
{
    pthread_t thread;
    struct pair *it = begin();
    MUST(pthread_create(&thread, NULL, has_other_descriptors, it) == 0 && pthread_join(thread, NULL) == 0);
    use(it);
    end(it);
    it = begin();
    if (processes) {
        put_last(it->out, ORDER(FILTER, 0));
        CHECK_EQ(take(it->in), ORDER(FILTER, 0));
        joined(it);
        close(it->in);
        close(it->out);
    } else {
        end(it);
    }
}

int main(int count, char **arguments)
{
    prepare(arguments[0]);
    if (count == 3) {
        while (serve(atoi(arguments[1]), atoi(arguments[2]))) {}
        return check_result();
    }
    void (*parts[])(void) = {contents, settings, signals_come, stops, somebody_ends, descriptors_change, children,
        others_watch, moved, crowds, many, bad_memory, others_have_other_descriptors};
    for (int kind = 0; kind < 2; kind++) {
        processes = kind;
        for (size_t part = 0; part < sizeof parts / sizeof *parts; part++) {
            if (getenv("PARTS")) fprintf(stderr, "%d %zu\n", kind, part);
            parts[part]();
        }
    }
    return check_result();
}
