// SPDX-License-Identifier: Apache-2.0
//
// Test only: kernel files of a few instructions, for VMs that end as told.
#ifndef CLOISTER_VMM_MICRO_KERNEL_H_
#define CLOISTER_VMM_MICRO_KERNEL_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"

namespace cloister::vmm {

// What such a kernel does.
enum class MicroKernel {
  // Prints 'f' if a page of private memory is empty, else 'd', the same for a
  // page of the low MiB, writes to both and resets the machine.
  kFresh,
  kPrint,    // prints '.' for ever
  kConvert,  // shares a page and takes it back by hypercall, prints '.', for
             // ever; on an error 'P' (not permitted) or 'E', and powers off
  kTouch,  // reads a page through the shared view, prints 'i', marks that init
           // runs, reads another one, prints 'a', powers off
  kTouchUnmarked,  // as kTouch, without saying that init runs
  kStatus,  // writes a refusal to the shim's status port, prints 's', powers
            // off
  kCrash,   // triple fault
  kLost,    // jumps to where there is no memory: KVM cannot go on
  kOff,     // powers off
};

// The pages that kConvert and kTouch use, the latter's second one
// kMicroKernelStep further.
inline constexpr uint64_t kMicroKernelData = uint64_t{24} << 20;
inline constexpr uint64_t kMicroKernelStep = uint64_t{2} << 20;

// Writes an ELF vmlinux that does it; needs 32 MiB of RAM.
absl::Status WriteMicroKernel(MicroKernel kernel, const std::string& path);

}  // namespace cloister::vmm

#endif  // CLOISTER_VMM_MICRO_KERNEL_H_
