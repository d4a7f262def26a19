// SPDX-License-Identifier: Apache-2.0
//
// The nested host's init: the only thing in its initramfs. It puts this
// machine's root (read-only, over 9p) under a throw-away tmpfs, moves into it,
// and then starts programs on behalf of lab/lab, with which it talks frames
// over one virtio-serial port:
//
//   type (1 byte), length (4 bytes, little-endian), payload
//
//   to init    J job: NUL-terminated fields cwd, tty ("0"|"1"), rows, cols,
//   count of environment
//                entries, these, count of arguments, these
//              I input, E end of input, W window size (rows, cols: 2 bytes
//              each), S signal (1 byte) K kill the job, N nothing (its
//              interrupt is what counts), P power off
//   from init  R ready, H heartbeat (every second, as long as this process gets
//   to run)
//              O standard output, X standard error, C input consumed (4 bytes)
//              D done: wait status, number of processes the job left behind (4
//              bytes each) F could not start: errno (4 bytes), text B about to
//              power off
//
// Written in C, statically linked, so that the lab needs no libraries of its
// own.

#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

enum { kMaxFrame = 1 << 20, kChunk = 32 << 10, kInputMax = 64 << 10 };

static int g_port = -1;

// Says what went wrong on the console and ends the machine: the runner shows
// the console's tail.
static void Die(const char* format, ...) {
  va_list args;
  va_start(args, format);
  fprintf(stderr, "lab init: ");
  vfprintf(stderr, format, args);
  fprintf(stderr, ": %s\n", strerror(errno));
  va_end(args);
  sync();
  reboot(RB_AUTOBOOT);
  _exit(1);
}

static void WriteAll(int fd, const void* data, size_t size) {
  const char* at = data;
  while (size > 0) {
    ssize_t n = write(fd, at, size);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) Die("write to the runner");
    at += n;
    size -= (size_t)n;
  }
}

static void Send(char type, const void* payload, uint32_t size) {
  static char frame[5 + kChunk];
  frame[0] = type;
  memcpy(frame + 1, &size, sizeof(size));
  if (size > 0) memcpy(frame + 5, payload, size);
  WriteAll(g_port, frame, 5 + size);
}

static void Mount(const char* source, const char* target, const char* type,
                  unsigned long flags, const char* options) {
  if (mount(source, target, type, flags, options) != 0)
    Die("mount %s on %s", source, target);
}

// Mounts what not every host root has a place for; without the directory there
// is nothing to do.
static void MountIfThere(const char* source, const char* target,
                         const char* type, const char* options) {
  mkdir(target, 0755);
  if (access(target, F_OK) == 0) Mount(source, target, type, 0, options);
}

static int OpenPort(void) {
  DIR* ports = opendir("/sys/class/virtio-ports");
  struct dirent* entry;
  while (ports != NULL && (entry = readdir(ports)) != NULL) {
    char path[512], name[64] = "";
    snprintf(path, sizeof(path), "/sys/class/virtio-ports/%s/name",
             entry->d_name);
    FILE* file = fopen(path, "re");
    if (file == NULL) continue;
    if (fgets(name, sizeof(name), file) == NULL) name[0] = '\0';
    fclose(file);
    if (strcmp(name, "cloister.lab\n") != 0) continue;
    snprintf(path, sizeof(path), "/dev/%s", entry->d_name);
    closedir(ports);
    return open(path, O_RDWR | O_CLOEXEC);
  }
  if (ports != NULL) closedir(ports);
  errno = ENODEV;
  return -1;
}

// Mounts the writable shares: lab.share=TAG:DIRECTORY on the kernel's command
// line, spaces as %20.
static void MountShares(void) {
  char line[4096] = "";
  int fd = open("/proc/cmdline", O_RDONLY | O_CLOEXEC);
  if (fd < 0 || read(fd, line, sizeof(line) - 1) < 0) Die("/proc/cmdline");
  close(fd);
  for (char* word = strtok(line, " \n"); word != NULL;
       word = strtok(NULL, " \n")) {
    if (strncmp(word, "lab.share=", 10) != 0) continue;
    char* tag = word + 10;
    char* directory = strchr(tag, ':');
    if (directory == NULL) continue;
    *directory++ = '\0';
    char* to = directory;
    for (char* from = directory; *from != '\0'; ++to) {
      if (strncmp(from, "%20", 3) == 0) {
        *to = ' ';
        from += 3;
      } else {
        *to = *from++;
      }
    }
    *to = '\0';
    Mount(tag, directory, "9p", 0,
          "trans=virtio,version=9p2000.L,msize=262144,access=any");
  }
}

static void LoopbackUp(void) {
  int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  struct ifreq request = {0};
  strcpy(request.ifr_name, "lo");
  if (fd < 0 || ioctl(fd, SIOCGIFFLAGS, &request) != 0) Die("loopback flags");
  request.ifr_flags |= IFF_UP | IFF_RUNNING;
  if (ioctl(fd, SIOCSIFFLAGS, &request) != 0) Die("loopback up");
  close(fd);
}

// Builds the root: the machine's own, read-only, with every change kept in
// memory and lost at the end. /run and /dev/shm start empty; /tmp shows the
// machine's, because programs may lie there.
static void BuildRoot(void) {
  mkdir("/host", 0755);
  mkdir("/memory", 0755);
  mkdir("/root", 0755);
  Mount("host", "/host", "9p", MS_RDONLY,
        "trans=virtio,version=9p2000.L,msize=262144,access=any,cache=loose");
  Mount("tmpfs", "/memory", "tmpfs", 0, "mode=0755,size=75%");
  mkdir("/memory/upper", 0755);
  mkdir("/memory/work", 0755);
  Mount("overlay", "/root", "overlay", 0,
        "lowerdir=/host,upperdir=/memory/upper,workdir=/memory/work");
  if (chdir("/root") != 0) Die("chdir /root");
  Mount("devtmpfs", "dev", "devtmpfs", 0, "mode=0755");
  mkdir("dev/pts", 0755);
  mkdir("dev/shm", 01777);
  Mount("devpts", "dev/pts", "devpts", 0, "ptmxmode=0666,mode=0620");
  Mount("tmpfs", "dev/shm", "tmpfs", 0, "mode=1777");
  MountIfThere("hugetlbfs", "dev/hugepages", "hugetlbfs", NULL);
  Mount("proc", "proc", "proc", 0, NULL);
  Mount("sysfs", "sys", "sysfs", 0, NULL);
  Mount("cgroup2", "sys/fs/cgroup", "cgroup2", 0, NULL);
  MountIfThere("tmpfs", "run", "tmpfs", "mode=0755");
  chmod("dev/kvm", 0666);
  chmod("dev/net/tun", 0666);
  Mount(".", "/", NULL, MS_MOVE, NULL);
  if (chroot(".") != 0 || chdir("/") != 0) Die("chroot");
  (void)!symlink("/proc/self/fd", "/dev/fd");
  (void)!symlink("fd/0", "/dev/stdin");
  (void)!symlink("fd/1", "/dev/stdout");
  (void)!symlink("fd/2", "/dev/stderr");
}

// The job that runs, if `pid` is not 0.
static struct {
  pid_t pid;
  int input;  // Non-blocking; -1 once closed.
  int output;
  int error;
  int terminal;  // Whether input and output are one pseudo-terminal.
  int input_ended;
  size_t pending;
  char buffer[kInputMax];
} g_job = {.input = -1, .output = -1, .error = -1};

static void CloseFd(int* fd) {
  if (*fd >= 0) close(*fd);
  *fd = -1;
}

static void ReportFailure(int error, const char* what) {
  char payload[512];
  memcpy(payload, &error, 4);
  int length = snprintf(payload + 4, sizeof(payload) - 4, "%s: %s", what,
                        strerror(error));
  if (length > (int)sizeof(payload) - 5) length = (int)sizeof(payload) - 5;
  Send('F', payload, 4 + (uint32_t)length);
}

typedef struct {
  const char* cwd;
  int terminal;
  struct winsize window;
  char** environment;
  char** arguments;
} Job;

// In the child, before exec. Returns only on failure, with the name of what
// failed.
static const char* Become(const Job* job, int input, int output, int error) {
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
  setsid();
  if (dup2(input, 0) < 0 || dup2(output, 1) < 0 || dup2(error, 2) < 0)
    return "dup2";
  if (job->terminal && ioctl(0, TIOCSCTTY, 0) != 0)
    return "controlling terminal";
  if (chdir(job->cwd) != 0) return job->cwd;
  environ = job->environment;
  execvp(job->arguments[0], job->arguments);
  return job->arguments[0];
}

// Opens the ends of the job's standard streams: ours into g_job, the child's
// into `child`.
static int OpenStreams(const Job* job, int child[3]) {
  if (job->terminal) {
    g_job.output =
        open("/dev/ptmx", O_RDWR | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (g_job.output < 0 || unlockpt(g_job.output) != 0) return -1;
    g_job.input = dup(g_job.output);
    ioctl(g_job.output, TIOCSWINSZ, &job->window);
    char name[64];
    if (ptsname_r(g_job.output, name, sizeof(name)) != 0) return -1;
    child[0] = open(name, O_RDWR | O_CLOEXEC | O_NOCTTY);
    child[1] = dup(child[0]);
    child[2] = dup(child[0]);
    return child[0] < 0 ? -1 : 0;
  }
  int in[2], out[2], err[2];
  if (pipe2(in, O_CLOEXEC) || pipe2(out, O_CLOEXEC) || pipe2(err, O_CLOEXEC))
    return -1;
  child[0] = in[0];
  child[1] = out[1];
  child[2] = err[1];
  g_job.input = in[1];
  g_job.output = out[0];
  g_job.error = err[0];
  fcntl(g_job.input, F_SETFL, O_NONBLOCK);
  fcntl(g_job.output, F_SETFL, O_NONBLOCK);
  fcntl(g_job.error, F_SETFL, O_NONBLOCK);
  return 0;
}

static void StartJob(const Job* job) {
  int child[3] = {-1, -1, -1};
  int failed[2];
  g_job.terminal = job->terminal;
  g_job.input_ended = 0;
  g_job.pending = 0;
  if (OpenStreams(job, child) != 0 || pipe2(failed, O_CLOEXEC) != 0)
    Die("streams for a job");
  pid_t pid = fork();
  if (pid < 0) Die("fork");
  if (pid == 0) {
    const char* what = Become(job, child[0], child[1], child[2]);
    char text[512];
    int error = errno;
    memcpy(text, &error, 4);
    snprintf(text + 4, sizeof(text) - 4, "%s", what);
    WriteAll(failed[1], text, 5 + strlen(text + 4));
    _exit(127);
  }
  for (int i = 0; i < 3; ++i) close(child[i]);
  close(failed[1]);
  char text[512] = "";
  ssize_t n = read(failed[0], text, sizeof(text) - 1);
  close(failed[0]);
  if (n > 4) {
    int error;
    memcpy(&error, text, 4);
    waitpid(pid, NULL, 0);
    CloseFd(&g_job.input);
    CloseFd(&g_job.output);
    CloseFd(&g_job.error);
    ReportFailure(error, text + 4);
    return;
  }
  g_job.pid = pid;
}

static char* NextField(char** at, char* end) {
  char* field = *at;
  char* stop = field < end ? memchr(field, '\0', (size_t)(end - field)) : NULL;
  if (stop == NULL) {
    errno = EPROTO;
    Die("job frame");
  }
  *at = stop + 1;
  return field;
}

static char** NextFields(char** at, char* end) {
  size_t count = strtoul(NextField(at, end), NULL, 10);
  if (count > kMaxFrame) count = 0;
  char** fields = calloc(count + 1, sizeof(char*));
  if (fields == NULL) Die("memory");
  for (size_t i = 0; i < count; ++i) fields[i] = NextField(at, end);
  return fields;
}

static void OnJob(char* payload, size_t size) {
  char* at = payload;
  char* end = payload + size;
  Job job = {0};
  job.cwd = NextField(&at, end);
  job.terminal = NextField(&at, end)[0] == '1';
  job.window.ws_row = (unsigned short)atoi(NextField(&at, end));
  job.window.ws_col = (unsigned short)atoi(NextField(&at, end));
  job.environment = NextFields(&at, end);
  job.arguments = NextFields(&at, end);
  if (job.arguments[0] == NULL) {
    ReportFailure(EINVAL, "no program");
  } else {
    // execvp searches PATH of this process, so take the job's.
    for (char** entry = job.environment; *entry != NULL; ++entry) {
      if (strncmp(*entry, "PATH=", 5) == 0) setenv("PATH", *entry + 5, 1);
    }
    StartJob(&job);
  }
  free(job.environment);
  free(job.arguments);
}

// Sends what a stream holds now. Closes it at its end. Returns whether there
// may be more.
static int Forward(int* fd, char type) {
  static char data[kChunk];
  if (*fd < 0) return 0;
  ssize_t n = read(*fd, data, sizeof(data));
  if (n > 0) {
    Send(type, data, (uint32_t)n);
    return 1;
  }
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return errno == EINTR;
  CloseFd(fd);
  return 0;
}

static void Consumed(uint32_t count) {
  if (count > 0) Send('C', &count, sizeof(count));
}

// Gives the job as much of its input as it takes now.
static void FeedInput(void) {
  if (g_job.input < 0) {
    Consumed((uint32_t)g_job.pending);
    g_job.pending = 0;
    return;
  }
  if (g_job.pending > 0) {
    ssize_t n = write(g_job.input, g_job.buffer, g_job.pending);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n < 0) {
      CloseFd(&g_job.input);
      FeedInput();
      return;
    }
    g_job.pending -= (size_t)n;
    memmove(g_job.buffer, g_job.buffer + n, g_job.pending);
    Consumed((uint32_t)n);
  }
  if (g_job.pending == 0 && g_job.input_ended) {
    if (g_job.terminal) (void)!write(g_job.input, "\004", 1);
    CloseFd(&g_job.input);
  }
}

static void OnInput(const char* payload, size_t size) {
  if (g_job.pid == 0) {
    Consumed((uint32_t)size);
    return;
  }
  if (size > sizeof(g_job.buffer) - g_job.pending) {
    errno = EPROTO;
    Die("more input than the runner has credit for");
  }
  memcpy(g_job.buffer + g_job.pending, payload, size);
  g_job.pending += size;
  FeedInput();
}

// The job has ended: kills what it left behind, sends all its output, then its
// status.
static void FinishJob(int status) {
  uint32_t left = 0;
  g_job.pid = 0;
  kill(-1, SIGKILL);
  for (int tries = 0; tries < 500; ++tries) {
    pid_t pid = waitpid(-1, NULL, WNOHANG);
    if (pid < 0) break;
    if (pid > 0) {
      ++left;
    } else {
      while (Forward(&g_job.output, 'O') + Forward(&g_job.error, 'X') > 0) {
      }
      poll(NULL, 0, 10);
    }
  }
  while (Forward(&g_job.output, 'O') > 0) {
  }
  while (Forward(&g_job.error, 'X') > 0) {
  }
  CloseFd(&g_job.input);
  CloseFd(&g_job.output);
  CloseFd(&g_job.error);
  FeedInput();
  uint32_t payload[2] = {(uint32_t)status, left};
  Send('D', payload, sizeof(payload));
}

static void OnChild(void) {
  int status;
  pid_t pid;
  while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
    if (pid == g_job.pid) {
      FinishJob(status);
      return;
    }
  }
}

static void PowerOff(void) {
  Send('B', NULL, 0);
  sync();
  reboot(RB_POWER_OFF);
  Die("power off");
}

static void OnFrame(char type, char* payload, size_t size) {
  switch (type) {
    case 'J':
      OnJob(payload, size);
      break;
    case 'I':
      OnInput(payload, size);
      break;
    case 'E':
      g_job.input_ended = 1;
      FeedInput();
      break;
    case 'W':
      if (size == 4 && g_job.terminal && g_job.output >= 0) {
        struct winsize window = {0};
        memcpy(&window.ws_row, payload, 2);
        memcpy(&window.ws_col, payload + 2, 2);
        ioctl(g_job.output, TIOCSWINSZ, &window);
      }
      break;
    case 'S':
      if (size == 1 && g_job.pid != 0) kill(-g_job.pid, payload[0]);
      break;
    case 'K':
      if (g_job.pid != 0) kill(-1, SIGKILL);
      break;
    case 'N':
      break;
    case 'P':
      PowerOff();
      break;
    default:
      errno = EPROTO;
      Die("frame of type %d", type);
  }
}

// Reads what the runner sent and handles every whole frame.
static void OnPort(void) {
  static char buffer[5 + kMaxFrame];
  static size_t filled = 0;
  ssize_t n = read(g_port, buffer + filled, sizeof(buffer) - filled);
  if (n < 0 && (errno == EINTR || errno == EAGAIN)) return;
  if (n <= 0) Die("the runner is gone");
  filled += (size_t)n;
  size_t at = 0;
  while (filled - at >= 5) {
    uint32_t size;
    memcpy(&size, buffer + at + 1, sizeof(size));
    if (size > kMaxFrame) {
      errno = EPROTO;
      Die("frame too long");
    }
    if (filled - at - 5 < size) break;
    OnFrame(buffer[at], buffer + at + 5, size);
    at += 5 + size;
  }
  memmove(buffer, buffer + at, filled - at);
  filled -= at;
}

static void Serve(int signals, int timer) {
  for (;;) {
    struct pollfd fds[6] = {
        {.fd = g_port, .events = POLLIN},
        {.fd = signals, .events = POLLIN},
        {.fd = timer, .events = POLLIN},
        {.fd = g_job.output, .events = POLLIN},
        {.fd = g_job.error, .events = POLLIN},
        {.fd = g_job.pending > 0 ? g_job.input : -1, .events = POLLOUT},
    };
    if (poll(fds, 6, -1) < 0 && errno != EINTR) Die("poll");
    if (fds[2].revents != 0) {
      uint64_t ticks;
      if (read(timer, &ticks, sizeof(ticks)) == sizeof(ticks))
        Send('H', NULL, 0);
    }
    if (fds[3].revents != 0) Forward(&g_job.output, 'O');
    if (fds[4].revents != 0) Forward(&g_job.error, 'X');
    if (fds[5].revents != 0) FeedInput();
    if (fds[0].revents != 0) OnPort();
    if (fds[1].revents != 0) {
      struct signalfd_siginfo info;
      (void)!read(signals, &info, sizeof(info));
      OnChild();
    }
  }
}

int main(void) {
  sigset_t blocked;
  sigemptyset(&blocked);
  sigaddset(&blocked, SIGCHLD);
  sigaddset(&blocked, SIGPIPE);
  sigprocmask(SIG_BLOCK, &blocked, NULL);
  umask(022);
  mkdir("/dev", 0755);
  mkdir("/proc", 0755);
  mkdir("/sys", 0755);
  Mount("devtmpfs", "/dev", "devtmpfs", 0, NULL);
  Mount("proc", "/proc", "proc", 0, NULL);
  Mount("sysfs", "/sys", "sysfs", 0, NULL);
  g_port = OpenPort();
  if (g_port < 0) Die("the virtio-serial port to the runner");
  BuildRoot();
  MountShares();
  LoopbackUp();
  (void)!sethostname("lab", 3);
  struct rlimit files = {65536, 524288};
  setrlimit(RLIMIT_NOFILE, &files);
  sigset_t children;
  sigemptyset(&children);
  sigaddset(&children, SIGCHLD);
  int signals = signalfd(-1, &children, SFD_CLOEXEC | SFD_NONBLOCK);
  int timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
  struct itimerspec second = {.it_interval = {1, 0}, .it_value = {1, 0}};
  if (signals < 0 || timer < 0 || timerfd_settime(timer, 0, &second, NULL) != 0)
    Die("timers");
  Send('R', NULL, 0);
  Serve(signals, timer);
}
