// The program that a container runtime executes as /opt/cni/bin/tortie.
//
// It decides nothing: it sends its CNI_* environment, its stdin and the opened CNI_NETNS (as a descriptor) to the
// agent's socket and prints what comes back. It needs no libc, no interpreter and no credential on the host, and takes
// 0.3 ms, where a scripting language's start alone would take as long as a whole ADD elsewhere.
//
// What it does answer itself:
//   VERSION                  always the same
//   STATUS                   ready for HEARTBEAT_S after the agent's last heartbeat, so that an agent's update does not
//                            make the node NotReady; only after that it asks the agent
//   agent away               error 11, "try again later"; for DEL a tombstone that the agent replays, and success, so
//                            that a node without an agent can be drained
//
// Wire format, both ways in the machine's byte order (cni/wire.py is the other end):
//   request  "TCN1" u32:length | u32:deadline_ms, environment "CNI_X=y\0"... "\0", stdin    (+ SCM_RIGHTS descriptor)
//   answer   u32:exit_status u32:length | text for stdout
#include <asm/stat.h>
#include <asm/unistd.h>
#include <linux/fcntl.h>
#include <linux/stat.h>
#include <linux/time_types.h>
#include <stddef.h>
#include <stdint.h>

#ifndef RUN_DIR
#define RUN_DIR "/run/tortie"
#endif
#define DEADLINE_MS 55000
#define HEARTBEAT_S 60
#define ENV_MAX 65536
#define STDIN_MAX (1 << 20)
#define HEAD 12

enum { EINTR_ = 4, AT_FDCWD_ = -100, AF_UNIX_ = 1, SOCK_STREAM_CLOEXEC = 02000001, SOL_SOCKET_ = 1, SO_RCVTIMEO_ = 20,
       SO_SNDTIMEO_ = 21, SCM_RIGHTS_ = 1, MSG_NOSIGNAL_ = 0x4000 };

struct iovec { void *base; size_t length; };
struct msghdr { void *name; uint32_t name_length; struct iovec *iov; size_t iov_length; void *control;
                size_t control_length; int flags; };
struct descriptor_message { size_t length; int level, type, descriptor; };

#if defined(__x86_64__)
static long call6(long n, long a, long b, long c, long d, long e)
{
    long result;
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    __asm__ volatile("syscall" : "=a"(result) : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8)
                     : "rcx", "r11", "memory");
    return result;
}
__asm__(".globl _start\n_start: mov %rsp,%rdi\n and $-16,%rsp\n call start\n");
#elif defined(__aarch64__)
static long call6(long n, long a, long b, long c, long d, long e)
{
    register long x8 __asm__("x8") = n;
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d;
    register long x4 __asm__("x4") = e;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4) : "memory");
    return x0;
}
__asm__(".globl _start\n_start: mov x0, sp\n bl start\n");
#else
#error "neither x86_64 nor aarch64"
#endif
#define CALL(n, a, b, c) call6(__NR_##n, (long)(a), (long)(b), (long)(c), 0, 0)

static char request[HEAD + ENV_MAX + STDIN_MAX + 1];
static char answer[STDIN_MAX];
static const char *version = "1.1.0"; // of the configuration, for errors
static size_t version_length = 5;

// The compiler may call these for copies and clears of its own.
void *memset(void *to, int value, size_t n) { for (char *p = to; n--;) *p++ = (char)value; return to; }
void *memcpy(void *to, const void *from, size_t n)
{
    const char *q = from;
    for (char *p = to; n--;) *p++ = *q++;
    return to;
}

static size_t length_of(const char *s) { size_t n = 0; while (s[n]) n++; return n; }
static int same(const char *a, const char *b) { while (*a && *a == *b) a++, b++; return *a == *b; }
static int begins(const char *s, const char *with) { while (*with && *s == *with) s++, with++; return !*with; }
static void leave(int status) { for (;;) CALL(exit_group, status, 0, 0); }

static long write_all(int to, const char *from, size_t n)
{
    while (n) {
        long wrote = CALL(write, to, from, n);
        if (wrote == -EINTR_) continue;
        if (wrote <= 0) return -1;
        from += wrote, n -= (size_t)wrote;
    }
    return 0;
}

static long read_once(int from, char *to, size_t n)
{
    for (;;) {
        long got = CALL(read, from, to, n);
        if (got != -EINTR_) return got;
    }
}

static void say(const char *s) { write_all(1, s, length_of(s)); }

static void fail(const char *code, const char *message)
{
    say("{\"cniVersion\":\"");
    write_all(1, version, version_length);
    say("\",\"code\":");
    say(code);
    say(",\"msg\":\"");
    say(message);
    say("\"}\n");
    leave(1);
}

// The text after "cniVersion" in the configuration, if it looks like a version; good enough for an echo.
static void find_version(const char *at, size_t n)
{
    static const char key[] = "\"cniVersion\"";
    for (size_t i = 0; i + sizeof key < n; i++) {
        if (!begins(at + i, key)) continue;
        for (i += sizeof key - 1; i < n && (at[i] == ' ' || at[i] == ':' || at[i] == '\t' || at[i] == '\n'); i++) {}
        if (i >= n || at[i++] != '"') return;
        size_t length = 0;
        while (i + length < n && length < 16 && ((at[i + length] >= '0' && at[i + length] <= '9') || at[i + length] == '.'))
            length++;
        if (length && i + length < n && at[i + length] == '"') version = at + i, version_length = length;
        return;
    }
}

static int heartbeat_is_fresh(void)
{
    struct stat file;
    struct __kernel_timespec now;
    if (call6(__NR_newfstatat, AT_FDCWD_, (long)(RUN_DIR "/heartbeat"), (long)&file, 0, 0)) return 0;
    if (CALL(clock_gettime, 0, &now, 0)) return 0;
    long age_s = (long)now.tv_sec - (long)file.st_mtime;
    return age_s >= -1 && age_s <= HEARTBEAT_S;
}

static int connect_agent(void)
{
    struct { uint16_t family; char path[108]; } address = {AF_UNIX_, RUN_DIR "/cni.sock"};
    struct { long s, us; } limit = {DEADLINE_MS / 1000 + 5, 0};
    long s = CALL(socket, AF_UNIX_, SOCK_STREAM_CLOEXEC, 0);
    if (s < 0) return -1;
    call6(__NR_setsockopt, s, SOL_SOCKET_, SO_RCVTIMEO_, (long)&limit, sizeof limit);
    call6(__NR_setsockopt, s, SOL_SOCKET_, SO_SNDTIMEO_, (long)&limit, sizeof limit);
    long result;
    do result = CALL(connect, s, &address, sizeof address); while (result == -EINTR_);
    if (result == 0) return (int)s;
    CALL(close, s, 0, 0);
    return -1;
}

static int send_request(int to, size_t n, int netns)
{
    struct iovec part = {request, n};
    struct { struct descriptor_message head; int pad; } control = {{sizeof(size_t) + 12, SOL_SOCKET_, SCM_RIGHTS_, netns}, 0};
    struct msghdr message = {.iov = &part, .iov_length = 1};
    if (netns >= 0) message.control = &control, message.control_length = sizeof control.head;
    while (part.length) {
        long sent = CALL(sendmsg, to, &message, MSG_NOSIGNAL_);
        if (sent == -EINTR_) continue;
        if (sent <= 0) return -1;
        part.base = (char *)part.base + sent, part.length -= (size_t)sent;
        message.control = 0, message.control_length = 0; // the descriptor went with the first byte
    }
    return 0;
}

// Reads the whole answer before printing any of it: half an answer is none.
static void print_answer(int from)
{
    size_t got = 0, wanted = 8;
    uint32_t head[2];
    while (got < wanted) {
        long n = read_once(from, answer + got, wanted - got);
        if (n <= 0) return;
        got += (size_t)n;
        if (got == 8 && wanted == 8) {
            memcpy(head, answer, 8);
            if (head[1] > sizeof answer - 8) return;
            wanted = 8 + head[1];
        }
    }
    if (write_all(1, answer + 8, head[1])) leave(1);
    leave((int)head[0]);
}

static int is_plain(const char *s)
{
    if (!*s || *s == '.' || *s == '-' || length_of(s) > 128) return 0;
    for (; *s; s++)
        if (!((*s >= 'a' && *s <= 'z') || (*s >= 'A' && *s <= 'Z') || (*s >= '0' && *s <= '9') || *s == '.' || *s == '_' ||
              *s == '-')) return 0;
    return 1;
}

// Leaves the request under RUN_DIR/cni-del/<container>@<interface>; the agent replays it. The directory is the agent's.
static void leave_tombstone(const char *container, const char *ifname, size_t n)
{
    char path[320] = RUN_DIR "/cni-del/", draft[328];
    if (!is_plain(container) || !is_plain(ifname)) return;
    size_t at = length_of(path);
    memcpy(path + at, container, length_of(container)), at += length_of(container);
    path[at++] = '@';
    memcpy(path + at, ifname, length_of(ifname) + 1), at += length_of(ifname);
    memcpy(draft, path, at), memcpy(draft + at, ".new", 5);
    long file = call6(__NR_openat, AT_FDCWD_, (long)draft, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600, 0);
    if (file < 0) return;
    if (write_all((int)file, request, n) || CALL(fsync, file, 0, 0) || CALL(close, file, 0, 0)) return;
    if (call6(__NR_renameat2, AT_FDCWD_, (long)draft, AT_FDCWD_, (long)path, 0) == 0) leave(0);
}

__attribute__((used)) void start(long *stack)
{
    char **environment = (char **)(stack + stack[0] + 2);
    const char *command = "", *netns = "", *container = "", *ifname = "";
    size_t n = HEAD;
    for (; *environment; environment++) {
        const char *entry = *environment;
        if (!begins(entry, "CNI_")) continue;
        if (begins(entry, "CNI_COMMAND=")) command = entry + 12;
        if (begins(entry, "CNI_NETNS=")) netns = entry + 10;
        if (begins(entry, "CNI_CONTAINERID=")) container = entry + 16;
        if (begins(entry, "CNI_IFNAME=")) ifname = entry + 11;
        size_t length = length_of(entry) + 1;
        if (n + length >= HEAD + ENV_MAX) fail("4", "the CNI_ environment is longer than 64 KiB");
        memcpy(request + n, entry, length), n += length;
    }
    request[n++] = 0;

    size_t config = n;
    for (;;) {
        long got = read_once(0, request + n, config + STDIN_MAX + 1 - n > sizeof request - n ? sizeof request - n
                                                                                            : config + STDIN_MAX + 1 - n);
        if (got < 0) fail("5", "the configuration cannot be read from stdin");
        if (got == 0) break;
        n += (size_t)got;
        if (n > config + STDIN_MAX || n == sizeof request) fail("6", "the configuration on stdin is longer than 1 MiB");
    }
    find_version(request + config, n - config);

    if (same(command, "VERSION")) {
        say("{\"cniVersion\":\"");
        write_all(1, version, version_length);
        say("\",\"supportedVersions\":[\"0.3.1\",\"0.4.0\",\"1.0.0\",\"1.1.0\"]}\n");
        leave(0);
    }
    if (same(command, "STATUS") && heartbeat_is_fresh()) leave(0);

    int descriptor = -1;
    if (*netns) {
        long opened = call6(__NR_openat, AT_FDCWD_, (long)netns, O_RDONLY | O_CLOEXEC | O_NONBLOCK, 0, 0);
        if (opened >= 0) descriptor = (int)opened;
        else if (same(command, "ADD") || same(command, "CHECK")) fail("4", "CNI_NETNS cannot be opened");
    }
    uint32_t length = (uint32_t)(n - 8), deadline_ms = DEADLINE_MS;
    memcpy(request, "TCN1", 4), memcpy(request + 4, &length, 4), memcpy(request + 8, &deadline_ms, 4);

    int agent = connect_agent();
    if (agent < 0 && same(command, "DEL")) leave_tombstone(container, ifname, n);
    if (agent >= 0 && send_request(agent, n, descriptor) == 0) print_answer(agent);
    if (same(command, "STATUS")) fail("50", "the Tortie agent on this node is not running");
    fail("11", "the Tortie agent on this node does not answer, try again later");
}
