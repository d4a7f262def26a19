// SPDX-License-Identifier: Apache-2.0
#include "cloister/tests/shim/shim_vm.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <thread>

#include "absl/strings/str_cat.h"
#include "cloister/base/status_macros.h"
#include "cloister/boot/shim/page_tables.h"
#include "cloister/kvm/uapi.h"

namespace cloister::tests {
namespace {

constexpr uint64_t kLow = shim::kLowest;

absl::Status Error(absl::string_view what) {
  return absl::ErrnoToStatus(errno, what);
}

struct CpuidTable {
  struct kvm_cpuid2 head;
  struct kvm_cpuid_entry2 entries[256];
};

bool SupportedCpuid(CpuidTable* table) {
  std::memset(table, 0, sizeof(*table));
  table->head.nent = 256;
  int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
  bool ok = kvm >= 0 && ioctl(kvm, KVM_GET_SUPPORTED_CPUID, table) == 0;
  if (kvm >= 0) close(kvm);
  return ok;
}

uint8_t* MapShared(uint64_t size) {
  int fd = memfd_create("shim_vm", MFD_CLOEXEC);
  if (fd < 0) return nullptr;
  void* map = MAP_FAILED;
  if (ftruncate(fd, static_cast<off_t>(size)) == 0) {
    map = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  }
  close(fd);
  return map == MAP_FAILED ? nullptr : static_cast<uint8_t*>(map);
}

struct kvm_segment Segment(uint16_t selector, bool code) {
  struct kvm_segment segment = {};
  segment.limit = 0xffffffff;
  segment.selector = selector;
  segment.type = code ? 11 : 3;
  segment.present = 1;
  segment.s = 1;
  segment.g = 1;
  segment.l = code ? 1 : 0;
  segment.db = code ? 0 : 1;
  return segment;
}

// Makes KVM_RUN return with EINTR once the time is up.
class Watchdog {
 public:
  Watchdog(struct kvm_run* run, int seconds) {
    signal(SIGUSR1, [](int) {});
    pthread_t target = pthread_self();
    thread_ = std::thread([this, run, seconds, target] {
      std::unique_lock<std::mutex> lock(mutex_);
      if (done_.wait_for(lock, std::chrono::seconds(seconds),
                         [this] { return stop_; })) {
        return;
      }
      expired_ = true;
      run->immediate_exit = 1;
      pthread_kill(target, SIGUSR1);
    });
  }
  ~Watchdog() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      stop_ = true;
    }
    done_.notify_all();
    thread_.join();
  }
  bool expired() const { return expired_; }

 private:
  std::mutex mutex_;
  std::condition_variable done_;
  bool stop_ = false;
  std::atomic<bool> expired_ = false;
  std::thread thread_;
};

}  // namespace

bool ShimVm::IsSupported(Kind kind) {
  int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
  if (kvm < 0) return false;
  int types = ioctl(kvm, KVM_CHECK_EXTENSION, KVM_CAP_VM_TYPES);
  close(kvm);
  return kind == Kind::kDefault || (types & (1 << KVM_X86_SW_PROTECTED_VM));
}

int ShimVm::CBit() {
  auto table = std::make_unique<CpuidTable>();
  if (!SupportedCpuid(table.get())) return -1;
  for (uint32_t i = 0; i < table->head.nent; ++i) {
    if (table->entries[i].function != 0x80000008) continue;
    int physical = table->entries[i].eax & 0xff;
    int guest = (table->entries[i].eax >> 16) & 0xff;
    if (guest == 0) guest = 48;
    return std::min(physical, guest) - 1;
  }
  return 35;
}

bool ShimVm::HasHypercalls(Kind kind) {
  // mov $12, %eax; mov $0x100000, %ebx; mov $1, %ecx; mov $16, %edx; vmmcall;
  // hlt
  constexpr uint8_t kCode[] = {0xb8, 12, 0,    0, 0,    0xbb, 0,    0,
                               0x10, 0,  0xb9, 1, 0,    0,    0,    0xba,
                               16,   0,  0,    0, 0x0f, 0x01, 0xd9, 0xf4};
  constexpr uint64_t kAt = 0x200000;
  Options options;
  options.kind = kind;
  options.cpuid_c_bit = CBit();
  options.timeout_seconds = 3;
  auto vm = Create(std::move(options));
  if (!vm.ok()) return false;
  std::vector<uint64_t> tables(shim::kTablesSize / 8);
  shim::BuildPageTables(tables.data(), kAt, 0, 0, 0);
  std::memcpy((*vm)->view_a() + kAt, tables.data(), shim::kTablesSize);
  std::memcpy((*vm)->view_a() + kAt + shim::kTablesSize, kCode, sizeof(kCode));
  ShimOutcome outcome = (*vm)->Run(kAt + shim::kTablesSize, kAt);
  return outcome.end == ShimOutcome::End::kHalted &&
         outcome.reports.size() == 1;
}

absl::StatusOr<std::unique_ptr<ShimVm>> ShimVm::Create(Options options) {
  std::unique_ptr<ShimVm> vm(new ShimVm());
  vm->options_ = std::move(options);
  RETURN_IF_ERROR(vm->Setup());
  return vm;
}

ShimVm::~ShimVm() {
  if (run_ != nullptr) munmap(run_, run_size_);
  for (int fd : {vcpu_, guest_memfd_, vm_}) {
    if (fd >= 0) close(fd);
  }
  if (low_ != nullptr) munmap(low_, kLow);
  for (uint8_t* view : {view_a_, view_b_, hidden_}) {
    if (view != nullptr) munmap(view, kRamSize);
  }
}

absl::Status ShimVm::Setup() {
  int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
  if (kvm < 0) return Error("open /dev/kvm");
  vm_ = ioctl(kvm, KVM_CREATE_VM,
              options_.kind == Kind::kSwProtected ? KVM_X86_SW_PROTECTED_VM
                                                  : KVM_X86_DEFAULT_VM);
  int create_error = errno;
  run_size_ = static_cast<size_t>(ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0));
  close(kvm);
  if (vm_ < 0) return absl::ErrnoToStatus(create_error, "KVM_CREATE_VM");
  struct kvm_enable_cap cap = {};
  cap.cap = KVM_CAP_EXIT_HYPERCALL;
  cap.args[0] = 1 << KVM_HC_MAP_GPA_RANGE;
  if (ioctl(vm_, KVM_ENABLE_CAP, &cap) != 0) {
    return Error("KVM_CAP_EXIT_HYPERCALL");
  }
  RETURN_IF_ERROR(AddSlots());
  vcpu_ = ioctl(vm_, KVM_CREATE_VCPU, 0);
  if (vcpu_ < 0) return Error("KVM_CREATE_VCPU");
  void* run =
      mmap(nullptr, run_size_, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu_, 0);
  if (run == MAP_FAILED) return Error("mmap of kvm_run");
  run_ = static_cast<struct kvm_run*>(run);
  return SetCpuid();
}

absl::Status ShimVm::SetPrivate(uint64_t gpa, uint64_t size) {
  struct kvm_memory_attributes attributes = {};
  attributes.address = gpa;
  attributes.size = size;
  attributes.attributes = KVM_MEMORY_ATTRIBUTE_PRIVATE;
  if (ioctl(vm_, KVM_SET_MEMORY_ATTRIBUTES, &attributes) != 0) {
    return Error("KVM_SET_MEMORY_ATTRIBUTES");
  }
  return absl::OkStatus();
}

absl::Status ShimVm::AddSlots() {
  const uint64_t c = uint64_t{1} << CBit();
  low_ = MapShared(kLow);
  view_a_ = MapShared(kRamSize);
  if (low_ == nullptr || view_a_ == nullptr) return Error("memfd");
  struct Slot {
    uint64_t gpa;
    uint64_t size;
    uint8_t* host;
  };
  std::vector<Slot> slots = {{0, kLow, low_},
                             {c, kLow, low_},
                             {kLow, kRamSize - kLow, view_a_ + kLow}};
  if (options_.kind == Kind::kDefault) {
    view_b_ = MapShared(kRamSize);
    if (view_b_ == nullptr) return Error("memfd");
    slots.push_back({c + kLow, kRamSize - kLow, view_b_ + kLow});
  }
  uint32_t number = 0;
  for (const Slot& slot : slots) {
    struct kvm_userspace_memory_region region = {
        number++, 0, slot.gpa, slot.size,
        reinterpret_cast<uint64_t>(slot.host)};
    if (ioctl(vm_, KVM_SET_USER_MEMORY_REGION, &region) != 0) {
      return Error(absl::StrCat("slot at ", absl::Hex(slot.gpa)));
    }
  }
  if (options_.kind == Kind::kDefault) return absl::OkStatus();

  struct kvm_create_guest_memfd create = {};
  create.size = kRamSize;
  guest_memfd_ = ioctl(vm_, KVM_CREATE_GUEST_MEMFD, &create);
  if (guest_memfd_ < 0) return Error("KVM_CREATE_GUEST_MEMFD");
  hidden_ = MapShared(kRamSize);
  if (hidden_ == nullptr) return Error("memfd");
  struct kvm_userspace_memory_region2 region = {};
  region.slot = number;
  region.flags = KVM_MEM_GUEST_MEMFD;
  region.guest_phys_addr = c + kLow;
  region.memory_size = kRamSize - kLow;
  region.userspace_addr = reinterpret_cast<uint64_t>(hidden_ + kLow);
  region.guest_memfd = static_cast<uint32_t>(guest_memfd_);
  region.guest_memfd_offset = kLow;
  if (ioctl(vm_, KVM_SET_USER_MEMORY_REGION2, &region) != 0) {
    return Error("slot over guest_memfd");
  }
  return SetPrivate(c + kLow, kRamSize - kLow);
}

absl::Status ShimVm::SetCpuid() {
  auto table = std::make_unique<CpuidTable>();
  if (!SupportedCpuid(table.get())) return Error("KVM_GET_SUPPORTED_CPUID");
  constexpr uint32_t kLeaf = 0x8000001f;
  uint32_t kept = 0;
  for (uint32_t i = 0; i < table->head.nent; ++i) {
    struct kvm_cpuid_entry2 entry = table->entries[i];
    if (entry.function == kLeaf) continue;
    if (entry.function == 0x80000000 && entry.eax < kLeaf) entry.eax = kLeaf;
    table->entries[kept++] = entry;
  }
  struct kvm_cpuid_entry2 encryption = {};
  encryption.function = kLeaf;
  if (options_.cpuid_c_bit >= 0) {
    encryption.eax = 2;
    encryption.ebx = static_cast<uint32_t>(options_.cpuid_c_bit) | 1 << 6;
  }
  table->entries[kept++] = encryption;
  table->head.nent = kept;
  if (ioctl(vcpu_, KVM_SET_CPUID2, table.get()) != 0) {
    return Error("KVM_SET_CPUID2");
  }
  return absl::OkStatus();
}

absl::Status ShimVm::SetRegisters(uint64_t rip, uint64_t cr3) {
  struct kvm_sregs sregs = {};
  if (ioctl(vcpu_, KVM_GET_SREGS, &sregs) != 0) return Error("KVM_GET_SREGS");
  sregs.cs = Segment(shim::kCodeSelector, true);
  sregs.ds = sregs.es = sregs.ss = sregs.fs = sregs.gs =
      Segment(shim::kDataSelector, false);
  sregs.cr0 = 0x80000011;  // PG, ET, PE
  sregs.cr3 = cr3;
  sregs.cr4 = 0x20;    // PAE
  sregs.efer = 0x500;  // LMA, LME
  if (ioctl(vcpu_, KVM_SET_SREGS, &sregs) != 0) return Error("KVM_SET_SREGS");
  // What the shim must not depend on is filled with nonsense.
  struct kvm_regs regs;
  std::memset(&regs, 0xa5, sizeof(regs));
  regs.rip = rip;
  regs.rflags = 2;
  if (ioctl(vcpu_, KVM_SET_REGS, &regs) != 0) return Error("KVM_SET_REGS");
  return absl::OkStatus();
}

void ShimVm::Load(const shim::ShimLaunch& launch,
                  const std::vector<boot::Piece>& pieces) {
  for (const shim::Placement& placement : launch.placements) {
    std::memcpy(view_a_ + placement.gpa.value(), placement.bytes.data(),
                placement.bytes.size());
  }
  for (const boot::Piece& piece : pieces) {
    std::memcpy(view_a_ + piece.gpa.value(), piece.data.data(),
                piece.data.size());
  }
}

bool ShimVm::HandleOut(uint16_t port, uint8_t value, ShimOutcome* outcome) {
  if (port == shim::kSerialPort) outcome->serial.push_back(value);
  if (port == kEchoPort) outcome->echo.push_back(value);
  if (port != shim::kStatusPort) return true;
  outcome->status = static_cast<shim::Status>(value);
  if (options_.on_status) options_.on_status(outcome->status);
  if (outcome->status == shim::Status::kPrivate) {
    outcome->saw_private = true;
  } else if (outcome->status == shim::Status::kVerified) {
    outcome->saw_verified = true;
  } else {
    outcome->end = ShimOutcome::End::kRefused;
    return false;
  }
  return true;
}

bool ShimVm::HandleReport(ShimOutcome* outcome) {
  uint64_t gpa = run_->hypercall.args[0];
  uint64_t size = run_->hypercall.args[1] * 4096;
  run_->hypercall.ret = static_cast<uint64_t>(options_.report_result);
  outcome->reports.emplace_back(gpa, size);
  if (run_->hypercall.nr != KVM_HC_MAP_GPA_RANGE ||
      run_->hypercall.args[2] != 1 << 4) {
    outcome->detail = absl::StrCat("hypercall ", run_->hypercall.nr, ", ",
                                   run_->hypercall.args[2]);
    return false;
  }
  if (options_.kind == Kind::kSwProtected && options_.report_result == 0) {
    absl::Status set = SetPrivate(gpa, size);
    outcome->detail = set.ToString();
    return set.ok();
  }
  return true;
}

bool ShimVm::HandleExit(ShimOutcome* outcome) {
  const uint8_t* data =
      reinterpret_cast<const uint8_t*>(run_) + run_->io.data_offset;
  switch (run_->exit_reason) {
    case KVM_EXIT_IO:
      if (run_->io.direction != KVM_EXIT_IO_OUT || run_->io.size != 1) break;
      for (uint32_t i = 0; i < run_->io.count; ++i) {
        if (!HandleOut(run_->io.port, data[i], outcome)) return false;
      }
      return true;
    case KVM_EXIT_HYPERCALL:
      if (HandleReport(outcome)) return true;
      outcome->end = ShimOutcome::End::kDied;
      return false;
    case KVM_EXIT_HLT:
      outcome->end = ShimOutcome::End::kHalted;
      return false;
    default:
      break;
  }
  struct kvm_regs regs = {};
  ioctl(vcpu_, KVM_GET_REGS, &regs);
  outcome->end = ShimOutcome::End::kDied;
  outcome->detail = absl::StrCat("exit ", run_->exit_reason, " at RIP 0x",
                                 absl::Hex(regs.rip));
  return false;
}

ShimOutcome ShimVm::Run(uint64_t rip, uint64_t cr3) {
  ShimOutcome outcome;
  absl::Status status = SetRegisters(rip, cr3);
  if (!status.ok()) {
    outcome.end = ShimOutcome::End::kDied;
    outcome.detail = status.ToString();
    return outcome;
  }
  run_->immediate_exit = 0;
  Watchdog watchdog(run_, options_.timeout_seconds);
  while (!watchdog.expired()) {
    if (ioctl(vcpu_, KVM_RUN, 0) == 0) {
      if (!HandleExit(&outcome)) return outcome;
      continue;
    }
    if (errno == EINTR || errno == EAGAIN) continue;
    outcome.end = ShimOutcome::End::kDied;
    outcome.detail = absl::StrCat("KVM_RUN: ", std::strerror(errno));
    return outcome;
  }
  outcome.detail = "timeout";
  return outcome;
}

}  // namespace cloister::tests
