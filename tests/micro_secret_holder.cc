// SPDX-License-Identifier: Apache-2.0
//
// A process inside a guest:
//
//   secret_holder SEED               computes a secret from SEED, keeps copies
//                                    of it in memory, says so, and waits for
//                                    ever
//   secret_holder publish SEED FILE  writes another to a block of FILE, past
//                                    the page cache: this one the host may see
#include <fcntl.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "cloister/tests/micro_secret.h"

namespace {

// Where in FILE: behind what others write there.
constexpr off_t kPublishAt = 32 << 20;

int Publish(const char* seed, const char* path) {
  alignas(4096) static char block[4096];
  const cloister::tests::Secret secret =
      cloister::tests::SecretFromSeed(std::strtoull(seed, nullptr, 10));
  std::memcpy(block + 64, secret.data(), sizeof(secret));
  const int file = open(path, O_WRONLY | O_DIRECT);
  const ssize_t size = pwrite(file, block, sizeof(block), kPublishAt);
  return size == sizeof(block) ? EXIT_SUCCESS : EXIT_FAILURE;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 4 && std::strcmp(argv[1], "publish") == 0) {
    return Publish(argv[2], argv[3]);
  }
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
