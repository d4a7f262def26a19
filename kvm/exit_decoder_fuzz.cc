// SPDX-License-Identifier: Apache-2.0
//
// Whatever a run page holds, what DecodeExit accepts stays inside of it.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "absl/status/statusor.h"
#include "cloister/kvm/exit.h"
#include "cloister/kvm/exit_decoder.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  constexpr size_t kPage = 3 * 4096;
  // On the heap and exact, so that AddressSanitizer sees every byte beyond.
  auto words = std::make_unique<uint64_t[]>(kPage / sizeof(uint64_t));
  auto* page = reinterpret_cast<uint8_t*>(words.get());
  std::copy_n(data, std::min(size, kPage), page);
  absl::StatusOr<cloister::kvm::Exit> exit =
      cloister::kvm::DecodeExit(page, kPage);
  if (!exit.ok()) return 0;
  if (cloister::kvm::DescribeExit(*exit).empty()) std::abort();
  if (auto* io = std::get_if<cloister::kvm::IoExit>(&*exit)) {
    std::memset(io->data, 0xa5, io->size());
  } else if (auto* mmio = std::get_if<cloister::kvm::MmioExit>(&*exit)) {
    std::memset(mmio->data, 0xa5, mmio->length);
  }
  return 0;
}
