// SPDX-License-Identifier: Apache-2.0
//
// Writes a kernel that does one thing, for tests that are scripts.
//
//   write_micro_kernel off|print FILE
#include <cstdio>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "cloister/vmm/micro_kernel.h"

int main(int argc, char** argv) {
  using cloister::vmm::MicroKernel;
  const absl::string_view kind = argc == 3 ? argv[1] : "";
  if (kind != "off" && kind != "print") {
    std::fprintf(stderr, "usage: write_micro_kernel off|print FILE\n");
    return 2;
  }
  const absl::Status status = cloister::vmm::WriteMicroKernel(
      kind == "off" ? MicroKernel::kOff : MicroKernel::kPrint, argv[2]);
  if (status.ok()) return 0;
  std::fprintf(stderr, "%s\n", status.ToString().c_str());
  return 1;
}
