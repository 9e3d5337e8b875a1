/* Netlink: the links, addresses and routes that getaddrinfo, ip and ss ask for; getifaddrs; SIOCGIFCONF. */
#include "check.h"
#include <arpa/inet.h>
#include <ifaddrs.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

static int dump(int fd, int type, int *loopback)
{
    struct { struct nlmsghdr header; struct rtgenmsg message; } request = {
        { sizeof request, type, NLM_F_REQUEST | NLM_F_DUMP, 42, 0 }, { AF_UNSPEC } };
    CHECK_EQ(send(fd, &request, sizeof request, 0), sizeof request);
    int count = 0;
    static char buffer[65536];
    for (;;) {
        ssize_t size = recv(fd, buffer, sizeof buffer, 0);
        MUST(size > 0);
        for (struct nlmsghdr *header = (void *)buffer; NLMSG_OK(header, size); header = NLMSG_NEXT(header, size)) {
            CHECK_EQ(header->nlmsg_seq, 42);
            if (header->nlmsg_type == NLMSG_DONE) return count;
            if (header->nlmsg_type == NLMSG_ERROR) {
                CHECK_FAIL("netlink error %d", ((struct nlmsgerr *)NLMSG_DATA(header))->error);
                return count;
            }
            CHECK_EQ(header->nlmsg_flags & NLM_F_MULTI, NLM_F_MULTI);
            count++;
            if (header->nlmsg_type == RTM_NEWLINK && ((struct ifinfomsg *)NLMSG_DATA(header))->ifi_flags & IFF_LOOPBACK)
                *loopback = ((struct ifinfomsg *)NLMSG_DATA(header))->ifi_index;
        }
    }
}

int main(void)
{
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    MUST(fd >= 0);
    struct sockaddr_nl address = { .nl_family = AF_NETLINK };
    CHECK_EQ(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
    socklen_t length = sizeof address;
    CHECK_EQ(getsockname(fd, (struct sockaddr *)&address, &length), 0);
    CHECK_EQ(length, sizeof address);
    CHECK(address.nl_pid != 0);
    int loopback = 0, ignored = 0;
    CHECK(dump(fd, RTM_GETLINK, &loopback) >= 1);
    CHECK(loopback > 0);
    CHECK(dump(fd, RTM_GETADDR, &ignored) >= 1);
    dump(fd, RTM_GETROUTE, &ignored);

    struct ifaddrs *list = NULL;
    CHECK_EQ(getifaddrs(&list), 0);
    bool found = false;
    for (struct ifaddrs *one = list; one; one = one->ifa_next)
        if (one->ifa_addr && one->ifa_addr->sa_family == AF_INET && strcmp(one->ifa_name, "lo") == 0) {
            found = ((struct sockaddr_in *)one->ifa_addr)->sin_addr.s_addr == htonl(INADDR_LOOPBACK);
            CHECK(one->ifa_flags & IFF_UP && one->ifa_flags & IFF_LOOPBACK);
        }
    CHECK(found);
    CHECK_EQ(if_nametoindex("lo"), loopback);
    char name[IF_NAMESIZE];
    CHECK_STR(if_indextoname(loopback, name), "lo");
    CHECK_EQ(if_nametoindex("none0"), 0);
    struct ifreq request = { .ifr_name = "lo" };
    int udp = socket(AF_INET, SOCK_DGRAM, 0);
    CHECK_EQ(ioctl(udp, SIOCGIFFLAGS, &request), 0);
    CHECK(request.ifr_flags & IFF_LOOPBACK);
    CHECK_EQ(ioctl(udp, SIOCGIFADDR, &request), 0);
    CHECK_EQ(((struct sockaddr_in *)&request.ifr_addr)->sin_addr.s_addr, htonl(INADDR_LOOPBACK));
    strcpy(request.ifr_name, "none0");
    CHECK_ERR(ioctl(udp, SIOCGIFFLAGS, &request), ENODEV);

    struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *answer = NULL;
    CHECK_EQ(getaddrinfo("localhost", "80", &hints, &answer), 0);
    CHECK(answer != NULL);
    CHECK_EQ(getaddrinfo("127.0.0.1", "1234", &hints, &answer), 0);
    CHECK_EQ(ntohs(((struct sockaddr_in *)answer->ai_addr)->sin_port), 1234);
    CHECK(getaddrinfo("no-such-host.invalid", NULL, &hints, &answer) != 0);
    return check_result();
}
