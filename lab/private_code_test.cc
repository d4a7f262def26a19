// SPDX-License-Identifier: Apache-2.0
//
// What the lab's patch is for: a guest whose code and page tables are private
// executes instructions that KVM has to decode. Passes on the patched kernel;
// the unpatched one must fail at the same place, or the patch has become
// needless. Talks to /dev/kvm directly: it tests the lab alone.

#include <fcntl.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>

#include "gtest/gtest.h"

// The guest, position-independent. It copies page tables and itself into
// private memory, goes on there, and tells by port I/O how far it got.
asm(R"(
  .pushsection .rodata
  .globl guest_start, guest_end
guest_start:
  movl $0x6000, %esi            # The tables prepared for the private side.
  movl $0x13000, %edi
  movl $0x600, %ecx
  rep movsq
  movl $0x1000, %esi            # This code.
  movl $0x12000, %edi
  movl $0x40, %ecx
  rep movsq
  movl $0x13000, %eax
  movq %rax, %cr3
  leaq in_private(%rip), %rax
  addq $0x11000, %rax
  jmp *%rax
in_private:
  xorl %eax, %eax
  cpuid                         # Decoded by KVM: through private tables, from private code.
  movb $0x5a, %al
  outb %al, $0x10
  movl $0x11000, %edi           # KVM writes private memory on the guest's behalf.
  movw $0x11, %dx
  cld
  insb
  movb 0x11000, %al
  outb %al, $0x12
  hlt
guest_end:
  .popsection
)");
extern "C" const char guest_start[], guest_end[];

namespace {

// UAPI of 6.8 that bookworm's header does not have.
struct UserMemoryRegion2 {
  uint32_t slot, flags;
  uint64_t guest_phys_addr, memory_size, userspace_addr, guest_memfd_offset;
  uint32_t guest_memfd, pad1;
  uint64_t pad2[14];
};
struct MemoryAttributes {
  uint64_t address, size, attributes, flags;
};
struct CreateGuestMemfd {
  uint64_t size, flags, reserved[6];
};
// In C++, bookworm's kvm_cpuid2 is too long: its empty struct takes a byte.
constexpr uint32_t kCpuidEntries = 256;
struct Cpuid {
  uint32_t count, padding;
  kvm_cpuid_entry2 entries[kCpuidEntries];
};
constexpr unsigned long kGetSupportedCpuid =
    _IOC(_IOC_READ | _IOC_WRITE, KVMIO, 0x05, 8);
constexpr unsigned long kSetCpuid2 = _IOC(_IOC_WRITE, KVMIO, 0x90, 8);
constexpr unsigned long kSetUserMemoryRegion2 =
    _IOW(KVMIO, 0x49, UserMemoryRegion2);
constexpr unsigned long kSetMemoryAttributes =
    _IOW(KVMIO, 0xd2, MemoryAttributes);
constexpr unsigned long kCreateGuestMemfd =
    _IOWR(KVMIO, 0xd4, CreateGuestMemfd);
constexpr int kSwProtectedVm = 1;
constexpr uint64_t kPrivate = 1 << 3;
constexpr uint64_t kMemorySize = 2 << 20;
constexpr uint64_t kPrivateStart = 0x10000, kPrivateSize = 0x10000;

class Guest {
 public:
  Guest() {
    kvm_ = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    vm_ = Check("create VM", ioctl(kvm_, KVM_CREATE_VM, kSwProtectedVm));
    memory_ =
        static_cast<char*>(mmap(nullptr, kMemorySize, PROT_READ | PROT_WRITE,
                                MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    CreateGuestMemfd create = {kMemorySize, 0, {}};
    private_ = Check("guest_memfd", ioctl(vm_, kCreateGuestMemfd, &create));
    UserMemoryRegion2 region = {};
    region.flags = 1 << 2;  // KVM_MEM_GUEST_MEMFD
    region.memory_size = kMemorySize;
    region.userspace_addr = reinterpret_cast<uint64_t>(memory_);
    region.guest_memfd = static_cast<uint32_t>(private_);
    Check("slot", ioctl(vm_, kSetUserMemoryRegion2, &region));
    MemoryAttributes attributes = {kPrivateStart, kPrivateSize, kPrivate, 0};
    Check("attributes", ioctl(vm_, kSetMemoryAttributes, &attributes));
    vcpu_ = Check("vCPU", ioctl(vm_, KVM_CREATE_VCPU, 0));
    run_size_ = static_cast<size_t>(ioctl(kvm_, KVM_GET_VCPU_MMAP_SIZE, 0));
    run_ = static_cast<kvm_run*>(
        mmap(nullptr, run_size_, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu_, 0));
    memcpy(memory_ + 0x1000, guest_start,
           static_cast<size_t>(guest_end - guest_start));
    WriteTables(0x3000, 0x3000);
    WriteTables(0x6000, 0x13000);
    SetCpuid();
    EnterLongMode();
  }

  ~Guest() {
    munmap(run_, run_size_);
    munmap(memory_, kMemorySize);
    for (int fd : {vcpu_, private_, vm_, kvm_}) close(fd);
  }

  kvm_run* run() { return run_; }
  const char* memory() const { return memory_; }

  // Runs to the next exit; returns it, or -1 when KVM_RUN fails.
  int Run() {
    int result;
    do {
      result = ioctl(vcpu_, KVM_RUN, 0);
    } while (result != 0 && errno == EINTR);
    return result == 0 ? static_cast<int>(run_->exit_reason) : -1;
  }

  char& data() { return reinterpret_cast<char*>(run_)[run_->io.data_offset]; }

 private:
  static int Check(const char* what, int result) {
    EXPECT_GE(result, 0) << what << ": " << strerror(errno);
    return result;
  }

  // Puts three tables at `at` that map the first 2 MiB once they lie at `home`.
  void WriteTables(uint64_t at, uint64_t home) {
    uint64_t entries[] = {(home + 0x1000) | 3, (home + 0x2000) | 3, 0x83};
    for (uint64_t i = 0; i < 3; ++i)
      memcpy(memory_ + at + i * 0x1000, &entries[i], 8);
  }

  // Long mode has to be in CPUID before it can be in EFER.
  void SetCpuid() {
    Cpuid cpuid = {kCpuidEntries, 0, {}};
    Check("supported CPUID", ioctl(kvm_, kGetSupportedCpuid, &cpuid));
    Check("set CPUID", ioctl(vcpu_, kSetCpuid2, &cpuid));
  }

  void EnterLongMode() {
    kvm_sregs sregs;
    Check("get sregs", ioctl(vcpu_, KVM_GET_SREGS, &sregs));
    sregs.cr3 = 0x3000;
    sregs.cr4 = 1 << 5;
    sregs.cr0 = 0x80000011;
    sregs.efer = 0x500;
    kvm_segment code = {};
    code.limit = 0xffffffff;
    code.type = 11;
    code.present = code.s = code.l = code.g = 1;
    code.selector = 8;
    kvm_segment data = code;
    data.type = 3;
    data.l = 0;
    data.db = 1;
    data.selector = 16;
    sregs.cs = code;
    sregs.ds = sregs.es = sregs.ss = data;
    Check("set sregs", ioctl(vcpu_, KVM_SET_SREGS, &sregs));
    kvm_regs regs = {};
    regs.rip = 0x1000;
    regs.rflags = 2;
    Check("set regs", ioctl(vcpu_, KVM_SET_REGS, &regs));
  }

  int kvm_, vm_, private_, vcpu_;
  size_t run_size_;
  char* memory_;
  kvm_run* run_;
};

bool IsPatched() {
  const char* kernel = std::getenv("CLOISTER_IN_LAB");
  return kernel != nullptr && std::string(kernel) == "patched";
}

TEST(PrivateCode, IsDecodedOnThePatchedKernelOnly) {
  Guest guest;
  int exit = guest.Run();
  bool decoded = exit == KVM_EXIT_IO && guest.run()->io.port == 0x10 &&
                 guest.data() == 0x5a;
  EXPECT_EQ(decoded, IsPatched()) << "exit " << exit;
}

TEST(PrivateCode, IsReadAndWrittenWhereItLies) {
  if (!IsPatched()) {
    GTEST_SKIP()
        << "not applicable: the unpatched kernel cannot decode private code";
  }
  Guest guest;
  ASSERT_EQ(guest.Run(), KVM_EXIT_IO);
  ASSERT_EQ(guest.Run(), KVM_EXIT_IO);
  ASSERT_EQ(guest.run()->io.port, 0x11);
  ASSERT_EQ(guest.run()->io.direction, KVM_EXIT_IO_IN);
  guest.data() = 0x77;
  ASSERT_EQ(guest.Run(), KVM_EXIT_IO);
  EXPECT_EQ(guest.run()->io.port, 0x12);
  EXPECT_EQ(guest.data(), 0x77);
  EXPECT_EQ(guest.Run(), KVM_EXIT_HLT);
  // None of it went through the host's mapping.
  EXPECT_EQ(std::string(guest.memory() + kPrivateStart, kPrivateSize),
            std::string(kPrivateSize, '\0'));
}

}  // namespace
