// SPDX-License-Identifier: Apache-2.0
#include "cloister/vmm/micro_kernel.h"

#include <fstream>
#include <vector>

#include "absl/strings/str_cat.h"
#include "cloister/boot/fake_kernel.h"

extern "C" const uint8_t cloister_micro_kernel_start[],
    cloister_micro_kernel_end[], cloister_micro_kernel_fresh[],
    cloister_micro_kernel_print[], cloister_micro_kernel_convert[],
    cloister_micro_kernel_touch[], cloister_micro_kernel_touch_unmarked[],
    cloister_micro_kernel_status[], cloister_micro_kernel_crash[],
    cloister_micro_kernel_lost[], cloister_micro_kernel_off[];

namespace cloister::vmm {
namespace {

const uint8_t* EntryOf(MicroKernel kernel) {
  switch (kernel) {
    case MicroKernel::kFresh:
      return cloister_micro_kernel_fresh;
    case MicroKernel::kPrint:
      return cloister_micro_kernel_print;
    case MicroKernel::kConvert:
      return cloister_micro_kernel_convert;
    case MicroKernel::kTouch:
      return cloister_micro_kernel_touch;
    case MicroKernel::kTouchUnmarked:
      return cloister_micro_kernel_touch_unmarked;
    case MicroKernel::kStatus:
      return cloister_micro_kernel_status;
    case MicroKernel::kCrash:
      return cloister_micro_kernel_crash;
    case MicroKernel::kLost:
      return cloister_micro_kernel_lost;
    case MicroKernel::kOff:
      break;
  }
  return cloister_micro_kernel_off;
}

}  // namespace

absl::Status WriteMicroKernel(MicroKernel kernel, const std::string& path) {
  std::vector<boot::FakeSegment> segments = boot::LinuxLikeSegments();
  segments[0].data.assign(cloister_micro_kernel_start,
                          cloister_micro_kernel_end);
  segments[0].memory_size = 4096;
  const auto offset =
      static_cast<uint64_t>(EntryOf(kernel) - cloister_micro_kernel_start);
  const std::vector<uint8_t> elf =
      boot::MakeElf(segments, segments[0].physical + offset);
  std::ofstream file(path, std::ios::binary);
  file.write(reinterpret_cast<const char*>(elf.data()),
             static_cast<std::streamsize>(elf.size()));
  file.close();
  if (file.good()) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("cannot write ", path));
}

}  // namespace cloister::vmm
