// SPDX-License-Identifier: Apache-2.0
//
// Test only.
#ifndef CLOISTER_KVM_REQUESTS_H_
#define CLOISTER_KVM_REQUESTS_H_

namespace cloister::kvm {

// The ioctl numbers that tests outside of kvm/ script with FakeKvm and
// FaultKvm, where KVM's own names do not appear.
struct Requests {
  static const unsigned long kCheckExtension;
  static const unsigned long kCreateVm;
  static const unsigned long kGetSupportedCpuid;
  static const unsigned long kCreateVcpu;
  static const unsigned long kCreateGuestMemfd;
  // Both versions of the call that sets a memory slot.
  static const unsigned long kSetMemoryRegion;
  static const unsigned long kSetMemoryRegion2;
  static const unsigned long kSetMemoryAttributes;
  static const unsigned long kEnableCapability;
  static const unsigned long kCreateIrqchip;
  static const unsigned long kCreatePit;
  static const unsigned long kSetTssAddress;
  static const unsigned long kSetIdentityMapAddress;
  static const unsigned long kIrqLine;
  static const unsigned long kIrqfd;
  static const unsigned long kIoeventfd;
  static const unsigned long kSignalMsi;
  static const unsigned long kSetGsiRouting;
  static const unsigned long kGetClock;
  static const unsigned long kSetClock;
  static const unsigned long kRun;
  static const unsigned long kGetRegisters;
  static const unsigned long kSetRegisters;
  static const unsigned long kGetSpecialRegisters;
  static const unsigned long kSetSpecialRegisters;
  static const unsigned long kSetCpuid;
  static const unsigned long kGetMsrs;
  static const unsigned long kSetMsrs;
  static const unsigned long kGetMpState;
  static const unsigned long kSetMpState;
  static const unsigned long kGetLapic;
  static const unsigned long kSetLapic;
  static const unsigned long kSetFpu;
  static const unsigned long kSetXcrs;
  static const unsigned long kPreFaultMemory;
};

}  // namespace cloister::kvm

#endif  // CLOISTER_KVM_REQUESTS_H_
