// SPDX-License-Identifier: Apache-2.0
//
// Prints the initializers of syscall_name.cc's table: run during the build.
#include <seccomp.h>

#include <cstdio>
#include <cstdlib>

int main() {
  constexpr int kNumbers = 512;
  for (int number = 0; number < kNumbers; ++number) {
    char* name = seccomp_syscall_resolve_num_arch(SCMP_ARCH_NATIVE, number);
    if (name == nullptr) {
      std::puts("nullptr,");
    } else {
      std::printf("\"%s\",\n", name);
      std::free(name);
    }
  }
}
