// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_VMM_SANDBOX_THREAD_KIND_H_
#define CLOISTER_VMM_SANDBOX_THREAD_KIND_H_

#include <cstdint>

namespace cloister::vmm {

// What a thread of a program with VMs is for.
enum class ThreadKind : uint8_t {
  kMain,        // the program's own: event loop, building and control of VMs
  kVcpu,        // runs a vCPU and handles its exits
  kDevice,      // serves one device
  kConversion,  // frees pages whose last lease has ended
  kApi,         // speaks HTTP
};
inline constexpr int kThreadKinds = 5;

// "main", "vcpu", "device", "conversion", "api"; "unknown" for anything else.
// Async-signal-safe.
constexpr const char* ThreadKindName(ThreadKind kind) {
  switch (kind) {
    case ThreadKind::kMain:
      return "main";
    case ThreadKind::kVcpu:
      return "vcpu";
    case ThreadKind::kDevice:
      return "device";
    case ThreadKind::kConversion:
      return "conversion";
    case ThreadKind::kApi:
      return "api";
  }
  return "unknown";
}

}  // namespace cloister::vmm

#endif  // CLOISTER_VMM_SANDBOX_THREAD_KIND_H_
