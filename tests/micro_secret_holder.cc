// SPDX-License-Identifier: Apache-2.0
//
// A process inside a guest: computes a secret from its argument, keeps copies
// of it in memory, says so, and waits for ever.
#include <fcntl.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "cloister/tests/micro_secret.h"

int main(int argc, char** argv) {
  if (argc != 2) return EXIT_FAILURE;
  constexpr int kCopies = 64;  // a page each
  constexpr int kPageSize = 4096;
  const cloister::tests::Secret secret =
      cloister::tests::SecretFromSeed(std::strtoull(argv[1], nullptr, 10));
  static char pages[kCopies * kPageSize];
  for (int i = 0; i < kCopies; ++i) {
    std::memcpy(pages + i * kPageSize + 64, secret.data(), sizeof(secret));
  }
  // The compiler must not think the copies useless.
  asm volatile("" : : "r"(pages) : "memory");
  // Through the kernel's log: it reaches the console without interrupts.
  constexpr char kHeld[] = "<0>cloister guest: secret held\n";
  const int log = open("/dev/kmsg", O_WRONLY);
  if (write(log, kHeld, sizeof(kHeld) - 1) < 0) return EXIT_FAILURE;
  for (;;) pause();
}
