// SPDX-License-Identifier: Apache-2.0
//
// guest_memfd and memory slots, on a host with software-protected VMs. What is
// expected here is what the kernel's own selftests pin down.
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "cloister/base/status_matchers.h"
#include "cloister/base/syscall.h"
#include "cloister/base/unique_fd.h"
#include "cloister/kvm/lab_fixture.h"
#include "cloister/kvm/system.h"
#include "cloister/kvm/test_guest.h"
#include "cloister/kvm/uapi.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::kvm {
namespace {

using base::StatusErrno;
using base::StatusIs;

using LabGuestMemfdTest = LabTest;
using LabSlotTest = LabTest;

// KVM_CREATE_GUEST_MEMFD without the library's own checks.
int CreateRaw(const Vm& vm, uint64_t size, uint64_t flags) {
  struct kvm_create_guest_memfd argument = {};
  argument.size = size;
  argument.flags = flags;
  int fd = RealSyscalls().Ioctl(vm.fd(), KVM_CREATE_GUEST_MEMFD,
                                reinterpret_cast<uintptr_t>(&argument));
  if (fd >= 0) close(fd);
  return fd;
}

// --- guest_memfd ---

TEST_F(LabGuestMemfdTest, TakesExactlyTheAdvertisedFlags) {
  ASSERT_OK_AND_ASSIGN(Vm plain, system_->CreateVm(VmType::kDefault));
  for (const Vm* vm : {&vm_.value(), &plain}) {
    uint64_t advertised = vm->CheckExtension(Capability::kGuestMemfdFlags);
    for (int bit = 0; bit < 64; ++bit) {
      uint64_t flag = uint64_t{1} << bit;
      bool ok = CreateRaw(*vm, kPage, flag) >= 0;
      EXPECT_EQ(ok, (advertised & flag) != 0)
          << VmTypeName(vm->type()) << " bit " << bit;
      EXPECT_TRUE(ok || errno == EINVAL) << bit;
    }
    GuestMemfdFlags supported = vm->SupportedGuestMemfdFlags();
    EXPECT_OK(vm->CreateGuestMemfd(kPage, supported));
  }
  // Memory that starts out shared is for VMs without private memory only.
  EXPECT_FALSE(vm_->SupportedGuestMemfdFlags().init_shared);
}

TEST_F(LabGuestMemfdTest, SizesAreWholePages) {
  for (uint64_t size : {uint64_t{0}, uint64_t{1}, kPage - 1, kPage + 1,
                        uint64_t{1} << 63, ~uint64_t{0xfff}}) {
    EXPECT_EQ(CreateRaw(*vm_, size, 0), -1) << size;
    EXPECT_EQ(errno, EINVAL);
  }
  for (uint64_t size : {kPage, 3 * kPage, uint64_t{1} << 40}) {
    ASSERT_OK_AND_ASSIGN(GuestMemfd file, vm_->CreateGuestMemfd(size, {}));
    struct stat status;
    ASSERT_EQ(fstat(file.fd(), &status), 0);
    EXPECT_EQ(static_cast<uint64_t>(status.st_size), size);
  }
}

TEST_F(LabGuestMemfdTest, FilesAreDistinctAndCloseOnExec) {
  ASSERT_OK_AND_ASSIGN(GuestMemfd one, vm_->CreateGuestMemfd(kPage, {}));
  ASSERT_OK_AND_ASSIGN(GuestMemfd two, vm_->CreateGuestMemfd(2 * kPage, {}));
  struct stat first, second;
  ASSERT_EQ(fstat(one.fd(), &first), 0);
  ASSERT_EQ(fstat(two.fd(), &second), 0);
  EXPECT_NE(first.st_ino, second.st_ino);
  EXPECT_EQ(first.st_size, static_cast<off_t>(kPage));
  EXPECT_EQ(second.st_size, static_cast<off_t>(2 * kPage));
  EXPECT_TRUE(fcntl(one.fd(), F_GETFD) & FD_CLOEXEC);
}

TEST_F(LabGuestMemfdTest, CannotBeReadOrWritten) {
  ASSERT_OK_AND_ASSIGN(GuestMemfd file, vm_->CreateGuestMemfd(kPage, {}));
  char buffer[16] = {};
  EXPECT_EQ(read(file.fd(), buffer, sizeof(buffer)), -1);
  EXPECT_EQ(write(file.fd(), buffer, sizeof(buffer)), -1);
  EXPECT_EQ(pread(file.fd(), buffer, sizeof(buffer), 0), -1);
  EXPECT_EQ(pwrite(file.fd(), buffer, sizeof(buffer), 0), -1);
}

TEST_F(LabGuestMemfdTest, MapsOnlyWithItsFlagAndShared) {
  ASSERT_OK_AND_ASSIGN(GuestMemfd file, vm_->CreateGuestMemfd(kPage, {}));
  EXPECT_EQ(mmap(nullptr, kPage, PROT_READ, MAP_SHARED, file.fd(), 0),
            MAP_FAILED);
  EXPECT_EQ(errno, ENODEV);
  EXPECT_EQ(mmap(nullptr, kPage, PROT_READ, MAP_PRIVATE, file.fd(), 0),
            MAP_FAILED);
  if (!vm_->SupportedGuestMemfdFlags().mmap) {
    GTEST_SKIP() << "this KVM's guest_memfd has no MMAP flag (6.18)";
  }
  ASSERT_OK_AND_ASSIGN(GuestMemfd mappable,
                       vm_->CreateGuestMemfd(kPage, {true, false}));
  EXPECT_EQ(mmap(nullptr, kPage, PROT_READ, MAP_PRIVATE, mappable.fd(), 0),
            MAP_FAILED);
  EXPECT_EQ(errno, EINVAL);
  EXPECT_OK(mappable.Map());
}

TEST_F(LabGuestMemfdTest, TouchingPrivatePagesIsASigbus) {
  if (!vm_->SupportedGuestMemfdFlags().mmap) {
    GTEST_SKIP() << "this KVM's guest_memfd has no MMAP flag (6.18)";
  }
  ASSERT_OK_AND_ASSIGN(GuestMemfd file,
                       vm_->CreateGuestMemfd(kPage, {true, false}));
  ASSERT_OK_AND_ASSIGN(HostMapping map, file.Map());
  volatile uint8_t* data = map.data();
  EXPECT_EXIT((void)data[0], ::testing::KilledBySignal(SIGBUS), "");
  EXPECT_EXIT(data[kPage - 1] = 1, ::testing::KilledBySignal(SIGBUS), "");
}

TEST_F(LabGuestMemfdTest, SharedPagesBeyondTheEndAreASigbus) {
  ASSERT_OK_AND_ASSIGN(Vm plain, system_->CreateVm(VmType::kDefault));
  if (!(plain.SupportedGuestMemfdFlags() == GuestMemfdFlags{true, true})) {
    GTEST_SKIP() << "this KVM's guest_memfd lacks MMAP and INIT_SHARED (6.18)";
  }
  ASSERT_OK_AND_ASSIGN(GuestMemfd file,
                       plain.CreateGuestMemfd(kPage, {true, true}));
  auto* data = static_cast<volatile uint8_t*>(mmap(
      nullptr, 2 * kPage, PROT_READ | PROT_WRITE, MAP_SHARED, file.fd(), 0));
  ASSERT_NE(const_cast<uint8_t*>(data), MAP_FAILED);
  data[kPage - 1] = 7;
  EXPECT_EQ(data[kPage - 1], 7);
  EXPECT_EXIT((void)data[kPage], ::testing::KilledBySignal(SIGBUS), "");
  munmap(const_cast<uint8_t*>(data), 2 * kPage);
}

TEST_F(LabGuestMemfdTest, FallocateEdges) {
  ASSERT_OK_AND_ASSIGN(GuestMemfd file, vm_->CreateGuestMemfd(4 * kPage, {}));
  auto raw = [&](int mode, off_t offset, off_t length) {
    return fallocate(file.fd(), mode, offset, length) == 0 ? 0 : errno;
  };
  constexpr int kKeep = FALLOC_FL_KEEP_SIZE;
  constexpr int kPunch = FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE;
  EXPECT_EQ(raw(kKeep, 0, 4 * kPage), 0);
  EXPECT_EQ(raw(0, 0, kPage), EOPNOTSUPP);
  EXPECT_EQ(raw(kKeep | FALLOC_FL_ZERO_RANGE, 0, kPage), EOPNOTSUPP);
  EXPECT_EQ(raw(kKeep, 4 * kPage, kPage), EINVAL);
  EXPECT_EQ(raw(kKeep, 3 * kPage, 2 * kPage), EINVAL);
  EXPECT_EQ(raw(kPunch, 1, kPage), EINVAL);
  EXPECT_EQ(raw(kPunch, kPage, kPage - 1), EINVAL);
  EXPECT_EQ(raw(kPunch, 0, 4 * kPage), 0);
  EXPECT_EQ(raw(kPunch, 4 * kPage, kPage), 0);  // beyond the end: nothing
  EXPECT_OK(file.Allocate(kPage, kPage));
  EXPECT_OK(file.PunchHole(kPage, kPage));
}

TEST_F(LabGuestMemfdTest, PunchZeroesOnlyItsPage) {
  AddPrivateMemory(3);
  for (uint64_t i = 0; i < 3; ++i)
    GuestWrite(kData + i * kPage, 0x111 * (i + 1));
  ASSERT_OK(file_->PunchHole(kPage, kPage));
  EXPECT_EQ(GuestRead(kData), 0x111u);
  EXPECT_EQ(GuestRead(kData + kPage), 0u);
  EXPECT_EQ(GuestRead(kData + 2 * kPage), 0x333u);
}

TEST_F(LabGuestMemfdTest, TheHostNeverSeesPrivateWrites) {
  AddPrivateMemory(1);
  std::memset(shared_.data(), 0x5a, kPage);
  GuestWrite(kData, 0xfeedface);
  EXPECT_EQ(shared_.data()[0], 0x5a);
  EXPECT_EQ(GuestRead(kData), 0xfeedfaceu);
  ASSERT_OK(vm_->SetMemoryAttributes(Range(kData, kPage), false));
  EXPECT_EQ(GuestRead(kData), 0x5a5a5a5a5a5a5a5au);
}

TEST_F(LabGuestMemfdTest, BindingsMustFitTheFile) {
  ASSERT_OK_AND_ASSIGN(GuestMemfd file, vm_->CreateGuestMemfd(2 * kPage, {}));
  ASSERT_OK_AND_ASSIGN(HostMapping host, MapAnonymous(kPage));
  MemoryRegion region = Region(1, kData, host);
  for (uint64_t offset : {uint64_t{1}, kPage - 1, 2 * kPage, 3 * kPage,
                          ~uint64_t{0xfff}, uint64_t{1} << 63}) {
    region.guest_memfd = GuestMemfdBinding{file.fd(), offset};
    EXPECT_THAT(vm_->SetMemoryRegion(region),
                StatusIs(absl::StatusCode::kInvalidArgument))
        << offset;
  }
  region.guest_memfd = GuestMemfdBinding{file.fd(), kPage};
  EXPECT_OK(vm_->SetMemoryRegion(region));
}

// --- slots ---

TEST_F(LabSlotTest, TheFirstVersionRefusesGuestMemfd) {
  ASSERT_OK_AND_ASSIGN(HostMapping host, MapAnonymous(kPage));
  struct kvm_userspace_memory_region region = {};
  region.slot = 1;
  region.flags = KVM_MEM_GUEST_MEMFD;
  region.guest_phys_addr = kData;
  region.memory_size = kPage;
  region.userspace_addr = reinterpret_cast<uintptr_t>(host.data());
  EXPECT_EQ(RealSyscalls().Ioctl(vm_->fd(), KVM_SET_USER_MEMORY_REGION,
                                 reinterpret_cast<uintptr_t>(&region)),
            -1);
  EXPECT_EQ(errno, EINVAL);
}

TEST_F(LabSlotTest, PrivateSlotsAreNeitherReadonlyNorLogged) {
  ASSERT_OK_AND_ASSIGN(GuestMemfd file, vm_->CreateGuestMemfd(kPage, {}));
  ASSERT_OK_AND_ASSIGN(HostMapping host, MapAnonymous(kPage));
  MemoryRegion region = Region(1, kData, host);
  region.guest_memfd = GuestMemfdBinding{file.fd(), 0};
  region.readonly = true;
  EXPECT_THAT(vm_->SetMemoryRegion(region),
              StatusIs(absl::StatusCode::kInvalidArgument));
  region.readonly = false;
  region.log_dirty = true;
  EXPECT_THAT(vm_->SetMemoryRegion(region),
              StatusIs(absl::StatusCode::kInvalidArgument));
  region.log_dirty = false;
  EXPECT_OK(vm_->SetMemoryRegion(region));
}

TEST_F(LabSlotTest, OnlyAGuestMemfdOfThisVmCanBeBound) {
  ASSERT_OK_AND_ASSIGN(Vm other, system_->CreateVm(VmType::kSwProtected));
  ASSERT_OK_AND_ASSIGN(GuestMemfd foreign, other.CreateGuestMemfd(kPage, {}));
  ASSERT_OK_AND_ASSIGN(HostMapping host, MapAnonymous(kPage));
  base::UniqueFd plain(memfd_create("lab_test", MFD_CLOEXEC));
  ASSERT_EQ(ftruncate(plain.get(), kPage), 0);
  MemoryRegion region = Region(1, kData, host);
  for (int fd : {system_->fd(), vm_->fd(), foreign.fd(), plain.get()}) {
    region.guest_memfd = GuestMemfdBinding{fd, 0};
    EXPECT_THAT(vm_->SetMemoryRegion(region),
                StatusIs(absl::StatusCode::kInvalidArgument));
  }
  region.guest_memfd = GuestMemfdBinding{-1, 0};
  EXPECT_EQ(StatusErrno(vm_->SetMemoryRegion(region)), EBADF);
}

TEST_F(LabSlotTest, OverlapsAreRefused) {
  AddPrivateMemory(2);
  ASSERT_OK_AND_ASSIGN(HostMapping host, MapAnonymous(2 * kPage));
  // In guest-physical memory, by a page at either end.
  EXPECT_THAT(vm_->SetMemoryRegion(Region(2, kData - kPage, host)),
              StatusIs(absl::StatusCode::kAlreadyExists));
  EXPECT_THAT(vm_->SetMemoryRegion(Region(2, kData + kPage, host)),
              StatusIs(absl::StatusCode::kAlreadyExists));
  EXPECT_OK(vm_->SetMemoryRegion(Region(2, kData + 2 * kPage, host)));
  // In the file.
  MemoryRegion region = Region(3, kData + 16 * kPage, host);
  region.size = kPage;
  region.guest_memfd = GuestMemfdBinding{file_->fd(), kPage};
  EXPECT_THAT(vm_->SetMemoryRegion(region),
              StatusIs(absl::StatusCode::kAlreadyExists));
}

TEST_F(LabSlotTest, PrivateSlotsAreImmutable) {
  AddPrivateMemory(2);
  EXPECT_THAT(BindPrivateMemory(),
              StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_OK(vm_->DeleteMemoryRegion(Slot(1)));
  EXPECT_THAT(vm_->DeleteMemoryRegion(Slot(1)),
              StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_OK(BindPrivateMemory());
}

TEST_F(LabSlotTest, AsManyAsKvmSays) {
  int maximum = vm_->CheckExtension(Capability::kMemorySlots);
  ASSERT_GT(maximum, 0);
  ASSERT_OK_AND_ASSIGN(HostMapping host, MapAnonymous(kPage));
  for (int slot = 0; slot < maximum; ++slot) {
    ASSERT_OK(vm_->SetMemoryRegion(
        Region(static_cast<uint16_t>(slot), kData + slot * kPage, host)));
  }
  EXPECT_THAT(vm_->SetMemoryRegion(Region(static_cast<uint16_t>(maximum),
                                          kData + maximum * kPage, host)),
              StatusIs(absl::StatusCode::kInvalidArgument));
}

}  // namespace
}  // namespace cloister::kvm
