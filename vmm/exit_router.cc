// SPDX-License-Identifier: Apache-2.0
#include "cloister/vmm/exit_router.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "cloister/base/status_macros.h"

namespace cloister::vmm {
namespace {

using memory::FaultAction;
using memory::GuestConversionCode;

// What a hypercall leaves in RAX (Linux: include/uapi/linux/kvm_para.h).
constexpr uint64_t kKvmEperm = static_cast<uint64_t>(-1);
constexpr uint64_t kKvmEfault = static_cast<uint64_t>(-14);
constexpr uint64_t kKvmEinval = static_cast<uint64_t>(-22);
constexpr uint64_t kKvmEnosys = static_cast<uint64_t>(-1000);

// AMD64_SEV (APM vol. 2, 15.34.10): bit 0 says that SEV is active.
constexpr uint32_t kMsrSevStatus = 0xc0010131;
// MSR_KVM_MIGRATION_CONTROL: bit 0 says that the guest reports conversions.
constexpr uint32_t kMsrMigrationControl = 0x4b564d08;

constexpr uint32_t kMaxLoggedMsrs = 64;

uint64_t ResultFor(GuestConversionCode code) {
  switch (code) {
    case GuestConversionCode::kOk:
      return 0;
    case GuestConversionCode::kInvalid:
      return kKvmEinval;
    case GuestConversionCode::kNotPermitted:
      return kKvmEperm;
    case GuestConversionCode::kFailed:
      return kKvmEfault;
  }
  return kKvmEfault;
}

}  // namespace

void ExitRouter::Request(vcpu::Verdict verdict) {
  vcpu::Verdict none = vcpu::Verdict::kContinue;
  requested_.compare_exchange_strong(none, verdict);
}

uint64_t ExitRouter::PageStateGeneration() {
  return parts_.states->CurrentGeneration();
}

void ExitRouter::OnPortRead(uint16_t port, absl::Span<uint8_t> data) {
  parts_.pio->Read(port, data);
}

vcpu::Verdict ExitRouter::OnPortWrite(uint16_t port,
                                      absl::Span<const uint8_t> data) {
  parts_.pio->Write(port, data);
  return requested_.load();
}

void ExitRouter::OnMmioRead(memory::GuestAddress address,
                            absl::Span<uint8_t> data) {
  parts_.mmio->Read(address.value(), data);
}

vcpu::Verdict ExitRouter::OnMmioWrite(memory::GuestAddress address,
                                      absl::Span<const uint8_t> data) {
  parts_.mmio->Write(address.value(), data);
  return requested_.load();
}

uint64_t ExitRouter::OnHypercall(const vcpu::Hypercall& call) {
  if (call.number != kvm::HypercallExit::kMapGpaRange ||
      parts_.broker == nullptr) {
    return kKvmEnosys;
  }
  memory::GuestConversion result =
      parts_.broker->ConvertForGuest(call.args[0], call.args[1], call.args[2]);
  if (result.code != GuestConversionCode::kOk) {
    parts_.log->Warning(absl::StrCat("guest conversion of ", call.args[1],
                                     " pages at 0x", absl::Hex(call.args[0]),
                                     ": ", result.detail.message()));
  }
  return ResultFor(result.code);
}

absl::Status ExitRouter::OnMemoryFault(const kvm::MemoryFaultExit& fault,
                                       uint64_t generation) {
  // A fault that asks for no conversion (private memory that the host cannot
  // give, a VM that has none) ends the VM too, as an internal error.
  ASSIGN_OR_RETURN(confidential::PageFault wanted,
                   parts_.backend->TranslateFault(fault));
  if (parts_.broker == nullptr) {
    return absl::FailedPreconditionError("this VM converts no memory");
  }
  memory::FaultConversion result =
      parts_.broker->ConvertForFault(wanted.page, wanted.wanted, generation);
  if (result.action == FaultAction::kResume) return absl::OkStatus();
  conversion_failed_.store(true);
  return absl::Status(result.detail.code(),
                      wanted.slot.has_value()
                          ? absl::StrCat(result.detail.message(), ", slot ",
                                         wanted.slot->value())
                          : std::string(result.detail.message()));
}

bool ExitRouter::OnMsr(vcpu::MsrAccess& access) {
  if (parts_.backend->c_bit().has_value()) {
    if (access.index == kMsrSevStatus && !access.is_write) {
      access.value = 1;
      return true;
    }
    if (access.index == kMsrMigrationControl && access.is_write &&
        access.value <= 1) {
      return true;
    }
  }
  if (unknown_msrs_.fetch_add(1) < kMaxLoggedMsrs) {
    parts_.log->Debug(absl::StrCat(access.is_write ? "WRMSR" : "RDMSR",
                                   " of unknown 0x", absl::Hex(access.index),
                                   ": #GP"));
  }
  return false;
}

}  // namespace cloister::vmm
