// SPDX-License-Identifier: Apache-2.0
//
//   power_cut_ignore_flush [--keep-flushes] PROGRAM [ARGUMENT]...
//
// Runs a program for which fsync and fdatasync succeed and do nothing, and
// which has no io_uring that could do it instead: a monitor that loses what it
// promised to keep. The power-cut test must find it out. With --keep-flushes
// there is no io_uring either, but fsync and fdatasync do what they say: what
// is lost without the option is lost for want of them.
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <iterator>

int main(int argc, char** argv) {
  const bool keep = argc > 1 && strcmp(argv[1], "--keep-flushes") == 0;
  char** const command = argv + (keep ? 2 : 1);
  if (command[0] == nullptr) return 2;
  // Errno 0: skipped, and successful.
  const uint32_t flush = keep ? SECCOMP_RET_ALLOW : SECCOMP_RET_ERRNO | 0;
  struct sock_filter program[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_fsync, 2, 0),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_fdatasync, 1, 0),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_io_uring_setup, 1, 2),
      BPF_STMT(BPF_RET | BPF_K, flush),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  struct sock_fprog filter = {std::size(program), program};
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
      prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) != 0) {
    perror("seccomp");
    return 1;
  }
  execvp(command[0], command);
  perror(command[0]);
  return 1;
}
