// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_KVM_THREAD_REQUESTS_H_
#define CLOISTER_KVM_THREAD_REQUESTS_H_

#include "absl/types/span.h"

namespace cloister::kvm {

// An ioctl on a file of KVM, for filters of system calls that name it.
struct ThreadRequest {
  const char* name;       // "KVM_RUN"
  unsigned long request;  // ioctl(2)'s second argument
  bool on_vcpu_threads;
  bool on_device_threads;
  bool on_api_threads;
  const char* why;  // for people: what the thread needs it for
};

// The requests that are made on other threads than the one that builds VMs.
absl::Span<const ThreadRequest> ThreadRequests();

// The type byte that all requests of KVM have in bits 8 to 15 (KVMIO, Linux
// include/uapi/linux/kvm.h): whoever builds VMs makes most of them.
unsigned long RequestType();

}  // namespace cloister::kvm

#endif  // CLOISTER_KVM_THREAD_REQUESTS_H_
