// SPDX-License-Identifier: Apache-2.0
//
// Launches a tiny kernel through the shim on real KVM: that it starts, that it
// does not start from anything but what was measured, and that no write to the
// shared window at any time changes that. Runs in a default VM everywhere, and
// in a software-protected VM where there are such.
#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <map>
#include <random>
#include <thread>

#include "cloister/base/status_matchers.h"
#include "cloister/boot/shim/handover_reader.h"
#include "cloister/boot/shim/handover_writer.h"
#include "cloister/boot/shim/launch.h"
#include "cloister/boot/shim/shim_image.h"
#include "cloister/tests/shim/shim_vm.h"

// The kernel: echoes the ranges of the list that ends it, byte by byte, then
// RSI, and halts. Before that it writes to its own BSS.
asm(R"(
  .pushsection .rodata
  .balign 8
  .globl tiny_kernel_start, tiny_kernel_list, tiny_kernel_end
tiny_kernel_start:
  mov %rsi, %r15
  lea tiny_kernel_list(%rip), %r12
  mov $0x10, %edx
1:
  mov (%r12), %r13
  mov 8(%r12), %r14
  add $16, %r12
  test %r14, %r14
  jz 3f
2:
  mov (%r13), %al
  outb %al, %dx
  inc %r13
  dec %r14
  jnz 2b
  jmp 1b
3:
  mov $8, %ecx
4:
  mov %r15b, %al
  outb %al, %dx
  shr $8, %r15
  dec %ecx
  jnz 4b
  mov (%r12), %r13
  movl $0x600dcafe, (%r13)
  hlt
  jmp .-1
  .balign 8
tiny_kernel_list:
tiny_kernel_end:
  .popsection
)");
extern "C" const uint8_t tiny_kernel_start[];
extern "C" const uint8_t tiny_kernel_end[];

namespace cloister::tests {
namespace {

using ::cloister::boot::Piece;
using ::cloister::boot::PieceType;
using ::cloister::memory::GuestAddress;
using ::cloister::memory::GuestRange;
using ::cloister::shim::Handover;
using ::cloister::shim::Status;
using End = ShimOutcome::End;

constexpr uint64_t kKernel = 0x140000;
constexpr uint64_t kKernelMemory = 0x3000;
constexpr uint64_t kBss = kKernel + 0x2000;
constexpr uint64_t kData = 0x144000;
constexpr uint64_t kInitrd = 0x150234;  // As unaligned as it may be.
constexpr uint64_t kCommandLine = 0x120000;
constexpr uint64_t kBootParams = 0x110000;
constexpr uint64_t kAcpi = 0x130000;
constexpr uint64_t kShim = 0x200000;

void Append(std::vector<uint8_t>* to, uint64_t value) {
  for (int i = 0; i < 8; ++i)
    to->push_back(static_cast<uint8_t>(value >> 8 * i));
}

std::vector<uint8_t> Pattern(size_t size, uint32_t seed) {
  std::minstd_rand random(seed);
  std::vector<uint8_t> bytes(size);
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random() >> 8);
  return bytes;
}

struct Range {
  uint64_t gpa;
  uint64_t size;
};
// What the kernel echoes: all pieces, and 16 bytes of its BSS.
const Range kEchoed[] = {{kKernel, 0x200},   {kData, 777},       {kInitrd, 999},
                         {kCommandLine, 33}, {kBootParams, 512}, {kAcpi, 100},
                         {kBss, 16}};

std::vector<uint8_t> TinyKernel() {
  std::vector<uint8_t> code(tiny_kernel_start, tiny_kernel_end);
  for (const Range& range : kEchoed) {
    Append(&code, range.gpa);
    Append(&code, range.size);
  }
  Append(&code, 0);
  Append(&code, 0);
  Append(&code, kBss);
  code.resize(0x200, 0x90);
  return code;
}

shim::LaunchOptions Options(bool hypercalls = false) {
  shim::LaunchOptions options;
  options.hypercalls = hypercalls;
  options.c_bit = ShimVm::CBit();
  options.ram = {*GuestRange::Create(GuestAddress(0), ShimVm::kRamSize)};
  options.shim = GuestAddress(kShim);
  auto add = [&](PieceType type, uint64_t gpa, std::vector<uint8_t> bytes,
                 uint64_t memory) {
    options.pieces.push_back(
        {type, GuestAddress(gpa), boot::SharedBytes(std::move(bytes)), memory});
  };
  add(PieceType::kKernelSegment, kKernel, TinyKernel(), kKernelMemory);
  add(PieceType::kKernelSegment, kData, Pattern(777, 1), 0x1000);
  add(PieceType::kInitrd, kInitrd, Pattern(999, 2), 999);
  add(PieceType::kCommandLine, kCommandLine, Pattern(33, 3), 0x800);
  add(PieceType::kBootParams, kBootParams, Pattern(512, 4), 0x1000);
  add(PieceType::kAcpi, kAcpi, Pattern(100, 5), 0x1000);
  options.entry = {GuestAddress(kKernel), GuestAddress(kBootParams)};
  return options;
}

// What the measured kernel, and no other, echoes.
std::vector<uint8_t> ExpectedEcho() {
  std::vector<uint8_t> echo;
  for (const Piece& piece : Options().pieces) {
    echo.insert(echo.end(), piece.data.span().begin(), piece.data.span().end());
  }
  echo.resize(echo.size() + 16);  // BSS: zeroes.
  Append(&echo, kBootParams);
  return echo;
}

bool IsRefusal(Status status) { return shim::RefusalText(status) != nullptr; }

// How often a test that depends on chance repeats; a soak run asks for more.
int Rounds(int normal) {
  const char* factor = std::getenv("CLOISTER_SHIM_ROUNDS");
  return factor == nullptr ? normal : normal * std::max(1, std::atoi(factor));
}

class ShimBootTest : public ::testing::TestWithParam<ShimVm::Kind> {
 protected:
  void SetUp() override {
    const char* lab = std::getenv("CLOISTER_IN_LAB");
    if (GetParam() == ShimVm::Kind::kSwProtected && lab != nullptr &&
        std::string(lab) == "unpatched") {
      GTEST_SKIP() << "not applicable: this kernel cannot decode private code";
    }
    if (!ShimVm::IsSupported(GetParam())) {
      ASSERT_EQ(std::getenv("CLOISTER_IN_LAB"), nullptr)
          << "the lab offers every kind of VM";
      GTEST_SKIP() << "/dev/kvm offers no such VM";
    }
    auto launch = shim::BuildShimLaunch(Options(HasHypercalls()));
    ASSERT_THAT(launch, base::IsOk());
    launch_ = std::make_unique<shim::ShimLaunch>(*std::move(launch));
  }

  // Asked of the machine once.
  static bool HasHypercalls() {
    static std::map<ShimVm::Kind, bool> known;
    auto [it, unknown] = known.emplace(GetParam(), false);
    if (unknown) {
      it->second = ShimVm::HasHypercalls(GetParam());
      std::printf("VMMCALL %s the monitor\n",
                  it->second ? "reaches" : "does not reach");
    }
    return it->second;
  }

  // A fresh VM with the launch in view A.
  std::unique_ptr<ShimVm> MakeVm(ShimVm::Options options = {}) {
    options.kind = GetParam();
    if (options.cpuid_c_bit == 0) options.cpuid_c_bit = ShimVm::CBit();
    auto vm = ShimVm::Create(std::move(options));
    EXPECT_THAT(vm, base::IsOk());
    if (!vm.ok()) return nullptr;
    (*vm)->Load(*launch_, Options().pieces);
    return *std::move(vm);
  }

  ShimOutcome Run(ShimVm* vm) {
    return vm->Run(launch_->start.rip.value(), launch_->start.cr3);
  }

  void ExpectStarted(const ShimOutcome& outcome) {
    EXPECT_EQ(outcome.end, End::kHalted) << outcome.detail;
    EXPECT_TRUE(outcome.saw_verified);
    EXPECT_EQ(outcome.echo, ExpectedEcho());
    EXPECT_EQ(outcome.serial, "");
  }

  void ExpectRefused(const ShimOutcome& outcome, Status reason,
                     const std::string& what) {
    ASSERT_EQ(outcome.end, End::kRefused) << what << ": " << outcome.detail;
    EXPECT_EQ(static_cast<int>(outcome.status), static_cast<int>(reason))
        << what;
    EXPECT_FALSE(outcome.saw_verified) << what;
    EXPECT_TRUE(outcome.echo.empty()) << what;
    EXPECT_EQ(outcome.serial, std::string("cloister shim: refused: ") +
                                  shim::RefusalText(reason) + "\r\n")
        << what;
  }

  // Replaces the hand-over tree in view A; the digest slot stays what it was.
  void WriteTree(ShimVm* vm, const Handover& handover) {
    auto tree = shim::WriteHandover(handover);
    ASSERT_THAT(tree, base::IsOk());
    uint8_t* at = vm->view_a() + kShim + shim::kHandoverOffset;
    std::memset(at, 0, shim::kHandoverMax);
    std::memcpy(at, tree->data(), tree->size());
  }

  std::unique_ptr<shim::ShimLaunch> launch_;
};

TEST_P(ShimBootTest, StartsTheMeasuredKernel) {
  std::unique_ptr<ShimVm> vm = MakeVm();
  ASSERT_NE(vm, nullptr);
  std::vector<uint8_t> before(vm->view_a() + shim::kLowest,
                              vm->view_a() + ShimVm::kRamSize);
  ShimOutcome outcome = Run(vm.get());
  ExpectStarted(outcome);
  EXPECT_TRUE(outcome.saw_private);
  // All RAM above the shared low memory was reported private.
  if (HasHypercalls()) {
    ASSERT_EQ(outcome.reports.size(), 1u);
    EXPECT_EQ(outcome.reports[0].first, shim::kLowest);
    EXPECT_EQ(outcome.reports[0].second, ShimVm::kRamSize - shim::kLowest);
  }
  // The kernel's write went to view B; the shim wrote nothing to view A but
  // its stack before the switch.
  std::vector<uint8_t> after(vm->view_a() + shim::kLowest,
                             vm->view_a() + ShimVm::kRamSize);
  uint64_t stack = kShim + shim::kStackOffset - shim::kLowest;
  std::fill_n(before.begin() + stack, shim::kStackSize, 0);
  std::fill_n(after.begin() + stack, shim::kStackSize, 0);
  EXPECT_TRUE(before == after);
  if (vm->view_b() == nullptr) return;
  uint32_t written;
  std::memcpy(&written, vm->view_b() + kBss, sizeof(written));
  EXPECT_EQ(written, 0x600dcafeu);
  // The image is the same after it has run.
  EXPECT_EQ(
      std::memcmp(vm->view_b() + kShim, launch_->placements[0].bytes.data(),
                  launch_->placements[0].bytes.size()),
      0);
}

TEST_P(ShimBootTest, StartsWithoutHypercalls) {
  auto launch = shim::BuildShimLaunch(Options(false));
  ASSERT_THAT(launch, base::IsOk());
  *launch_ = *std::move(launch);
  std::unique_ptr<ShimVm> vm = MakeVm();
  ASSERT_NE(vm, nullptr);
  ShimOutcome outcome = Run(vm.get());
  ExpectStarted(outcome);
  EXPECT_TRUE(outcome.reports.empty());
}

// What only a host that can write view B can do.
class ShimViewBTest : public ShimBootTest {};

// The second entry, as a backend with launch-time private pages would use it.
TEST_P(ShimViewBTest, StartsWhenItIsAlreadyPrivate) {
  std::unique_ptr<ShimVm> vm = MakeVm();
  ASSERT_NE(vm, nullptr);
  int c_bit = ShimVm::CBit();
  shim::Placement tables = shim::PrivatePageTables(GuestAddress(kShim), c_bit);
  for (const shim::Placement& placement :
       {launch_->placements[0], tables, launch_->placements[2]}) {
    std::memcpy(vm->view_b() + placement.gpa.value(), placement.bytes.data(),
                placement.bytes.size());
  }
  std::memset(vm->view_a() + kShim, 0xcc, shim::kShimSize);
  ExpectStarted(vm->Run(kShim + shim::kPrivateEntry,
                        tables.gpa.value() | uint64_t{1} << c_bit));
}

// The checks of this file see a kernel that is not the measured one.
TEST_P(ShimViewBTest, ControlAForeignByteIsSeen) {
  ShimVm* raw = nullptr;
  ShimVm::Options options;
  options.on_status = [&](Status status) {
    if (status == Status::kVerified) raw->view_b()[kData + 5] ^= 1;
  };
  std::unique_ptr<ShimVm> vm = MakeVm(std::move(options));
  ASSERT_NE(vm, nullptr);
  raw = vm.get();
  ShimOutcome outcome = Run(vm.get());
  EXPECT_EQ(outcome.end, End::kHalted);
  EXPECT_NE(outcome.echo, ExpectedEcho());
  EXPECT_EQ(outcome.echo.size(), ExpectedEcho().size());
}

TEST_P(ShimBootTest, RefusesAChangedByteInAnyPiece) {
  for (const Piece& piece : Options().pieces) {
    for (size_t offset : {size_t{0}, piece.data.size() - 1}) {
      std::unique_ptr<ShimVm> vm = MakeVm();
      ASSERT_NE(vm, nullptr);
      vm->view_a()[piece.gpa.value() + offset] ^= 0x80;
      ExpectRefused(Run(vm.get()), Status::kPieceDigest,
                    piece.gpa.ToString() + " + " + std::to_string(offset));
    }
  }
}

TEST_P(ShimBootTest, RefusesAChangedDigestSlot) {
  for (uint64_t offset : {uint64_t{0}, shim::kDigestSize - 1}) {
    std::unique_ptr<ShimVm> vm = MakeVm();
    ASSERT_NE(vm, nullptr);
    vm->view_a()[kShim + shim::kDigestSlot + offset] ^= 1;
    ExpectRefused(Run(vm.get()), Status::kLaunchDigest, "digest slot");
  }
}

TEST_P(ShimBootTest, RefusesAChangedConstantOfItsOwn) {
  // A message that a launch never prints: no instruction depends on it.
  const std::string text = "private memory report refused";
  absl::Span<const uint8_t> image = shim::ShimImage();
  auto at = std::search(image.begin(), image.end(), text.begin(), text.end());
  ASSERT_NE(at, image.end());
  std::unique_ptr<ShimVm> vm = MakeVm();
  ASSERT_NE(vm, nullptr);
  vm->view_a()[kShim + (at - image.begin())] ^= 1;
  ExpectRefused(Run(vm.get()), Status::kLaunchDigest, "text");
}

// Anything may happen to a shim whose code is wrong before it can check itself,
// except that it starts a kernel.
TEST_P(ShimBootTest, ChangedCodeNeverStartsAnythingElse) {
  size_t size = shim::ShimImage().size();
  std::mt19937 random(7);
  for (int round = 0; round < Rounds(12); ++round) {
    ShimVm::Options options;
    options.timeout_seconds = 10;
    std::unique_ptr<ShimVm> vm = MakeVm(std::move(options));
    ASSERT_NE(vm, nullptr);
    size_t offset = random() % size;
    uint8_t bit = static_cast<uint8_t>(1 << random() % 8);
    vm->view_a()[kShim + offset] ^= bit;
    ShimOutcome outcome = Run(vm.get());
    EXPECT_FALSE(outcome.saw_verified)
        << "bit " << int{bit} << " of byte " << offset;
    EXPECT_TRUE(outcome.echo.empty());
  }
}

TEST_P(ShimBootTest, RefusesAChangedHandover) {
  struct Case {
    const char* what;
    Status reason;
    std::function<void(Handover&)> change;
  };
  const Case cases[] = {
      {"C-bit", Status::kCBitMismatch, [](Handover& h) { h.c_bit -= 1; }},
      {"C-bit 64", Status::kCBitMismatch, [](Handover& h) { h.c_bit += 64; }},
      {"shim", Status::kBadPlacement, [](Handover& h) { h.shim += 0x1000; }},
      {"entry", Status::kLaunchDigest, [](Handover& h) { h.entry += 1; }},
      {"entry elsewhere", Status::kBadPlacement,
       [](Handover& h) { h.entry = kInitrd; }},
      {"RSI", Status::kLaunchDigest,
       [](Handover& h) { h.boot_params = kAcpi; }},
      {"vCPUs", Status::kLaunchDigest, [](Handover& h) { h.vcpus = 2; }},
      {"hypercalls", Status::kLaunchDigest,
       [](Handover& h) { h.hypercalls ^= 1; }},
      {"platform", Status::kLaunchDigest,
       [](Handover& h) { h.platform.bytes[31] ^= 1; }},
      {"RAM", Status::kLaunchDigest,
       [](Handover& h) { h.ram[0].size += 0x1000; }},
      {"digest of a piece", Status::kLaunchDigest,
       [](Handover& h) { h.pieces[3].digest.bytes[0] ^= 1; }},
      {"length of a piece", Status::kLaunchDigest,
       [](Handover& h) { h.pieces[3].length -= 1; }},
      {"type of a piece", Status::kLaunchDigest,
       [](Handover& h) { h.pieces[3].type = 2; }},
      {"one piece fewer", Status::kLaunchDigest,
       [](Handover& h) { h.piece_count -= 1; }},
      {"a piece over the shim", Status::kBadPlacement,
       [](Handover& h) { h.pieces[3].gpa = kShim + 0x100; }},
      {"a piece over the shim's stack", Status::kBadPlacement,
       [](Handover& h) { h.pieces[3].gpa = kShim + shim::kStackOffset; }},
      {"a piece in low memory", Status::kBadPlacement,
       [](Handover& h) { h.pieces[3].gpa = 0x8000; }},
      {"a piece outside RAM", Status::kBadPlacement,
       [](Handover& h) { h.pieces[3].gpa = ShimVm::kRamSize; }},
  };
  const shim::Placement& placed = launch_->placements[2];
  for (const Case& c : cases) {
    std::unique_ptr<ShimVm> vm = MakeVm();
    ASSERT_NE(vm, nullptr);
    Handover handover;
    ASSERT_TRUE(
        ReadHandover(placed.bytes.data(), placed.bytes.size(), &handover));
    c.change(handover);
    WriteTree(vm.get(), handover);
    ExpectRefused(Run(vm.get()), c.reason, c.what);
  }
}

TEST_P(ShimBootTest, RefusesAMalformedTree) {
  // (offset, value): magic, size, version, first token.
  const std::pair<size_t, uint8_t> changes[] = {{0, 0},  {4, 0xff}, {7, 0x20},
                                                {23, 1}, {64, 7},   {67, 9}};
  for (const auto& [offset, value] : changes) {
    std::unique_ptr<ShimVm> vm = MakeVm();
    ASSERT_NE(vm, nullptr);
    vm->view_a()[kShim + shim::kHandoverOffset + offset] = value;
    ExpectRefused(Run(vm.get()), Status::kBadHandover,
                  "byte " + std::to_string(offset));
  }
}

TEST_P(ShimBootTest, RefusesWithoutMemoryEncryption) {
  ShimVm::Options options;
  options.cpuid_c_bit = -1;
  std::unique_ptr<ShimVm> vm = MakeVm(std::move(options));
  ASSERT_NE(vm, nullptr);
  ExpectRefused(Run(vm.get()), Status::kNoEncryption, "CPUID");
}

TEST_P(ShimBootTest, RefusesThePrivateEntryFromSharedMemory) {
  std::unique_ptr<ShimVm> vm = MakeVm();
  ASSERT_NE(vm, nullptr);
  ExpectRefused(vm->Run(kShim + shim::kPrivateEntry, launch_->start.cr3),
                Status::kNotPrivate, "private entry");
}

TEST_P(ShimBootTest, RefusesWhenTheReportIsTurnedDown) {
  if (!HasHypercalls()) GTEST_SKIP() << "VMMCALL does not reach the monitor";
  ShimVm::Options options;
  options.report_result = -22;
  std::unique_ptr<ShimVm> vm = MakeVm(std::move(options));
  ASSERT_NE(vm, nullptr);
  ExpectRefused(Run(vm.get()), Status::kHypercall, "report");
}

// Flips bits of view A from a second thread until told to stop.
class Flipper {
 public:
  // `lasting` flips stay; others are undone after a while.
  Flipper(uint8_t* memory, std::vector<Range> ranges, bool lasting,
          uint32_t seed)
      : thread_([=, this, ranges = std::move(ranges)] {
          std::minstd_rand random(seed);
          while (!stop_.load(std::memory_order_relaxed)) {
            const Range& range = ranges[random() % ranges.size()];
            auto* byte = reinterpret_cast<std::atomic<uint8_t>*>(
                memory + range.gpa + random() % range.size);
            uint8_t bit = static_cast<uint8_t>(1 << random() % 8);
            byte->fetch_xor(bit, std::memory_order_relaxed);
            if (!lasting) {
              // Long enough to be copied, too short to be there when a shim
              // that looked at view A again would check it.
              for (uint32_t hold = random() % 50000; hold != 0; --hold) {
                __builtin_ia32_pause();
              }
              byte->fetch_xor(bit, std::memory_order_relaxed);
            }
            flips_.fetch_add(1, std::memory_order_relaxed);
          }
        }) {
    // The launch is to run while bits flip, not before.
    while (flips_.load() == 0) std::this_thread::yield();
  }
  ~Flipper() {
    stop_ = true;
    thread_.join();
  }
  uint64_t flips() const { return flips_; }

 private:
  std::atomic<bool> stop_ = false;
  std::atomic<uint64_t> flips_ = 0;
  std::thread thread_;
};

struct Tally {
  int started = 0;
  int refused = 0;
  int died = 0;
};

// The measured image, complete, or no kernel at all.
void Judge(const ShimOutcome& outcome, uint32_t seed, Tally* tally) {
  if (outcome.saw_verified || !outcome.echo.empty()) {
    ASSERT_TRUE(outcome.saw_verified) << "seed " << seed;
    ASSERT_EQ(outcome.end, End::kHalted) << seed << ": " << outcome.detail;
    ASSERT_EQ(outcome.echo, ExpectedEcho()) << "seed " << seed;
    ++tally->started;
    return;
  }
  if (outcome.end == End::kRefused) {
    ASSERT_TRUE(IsRefusal(outcome.status)) << "seed " << seed;
    ++tally->refused;
  } else {
    // A triple fault, a loop without end, or a halt: one flipped bit makes HLT
    // of other instructions.
    ++tally->died;
  }
}

// What a flip can leave of the shim before its first check: that is neither a
// start nor a refusal.
TEST_P(ShimBootTest, AShimThatOnlyHaltsHasDied) {
  std::unique_ptr<ShimVm> vm = MakeVm();
  ASSERT_NE(vm, nullptr);
  vm->view_a()[launch_->start.rip.value()] = 0xf4;  // HLT.
  ShimOutcome outcome = Run(vm.get());
  EXPECT_EQ(outcome.end, End::kHalted) << outcome.detail;
  Tally tally;
  ASSERT_NO_FATAL_FAILURE(Judge(outcome, 0, &tally));
  EXPECT_EQ(tally.died, 1);
}

std::vector<Range> PieceRanges() {
  std::vector<Range> ranges;
  for (const Piece& piece : Options().pieces) {
    ranges.push_back({piece.gpa.value(), piece.data.size()});
  }
  return ranges;
}

std::string Show(const Tally& tally) {
  return std::to_string(tally.started) + " started, " +
         std::to_string(tally.refused) + " refused, " +
         std::to_string(tally.died) + " died";
}

// Everything that is checked after the switch, flipped all through the launch:
// the shim itself is whole, so each launch starts the image or says why not.
TEST_P(ShimBootTest, FlippingWhatIsMeasuredStartsOrRefuses) {
  uint32_t first = std::random_device()();
  std::vector<Range> ranges = PieceRanges();
  ranges.push_back(
      {kShim + shim::kHandoverOffset, launch_->placements[2].bytes.size()});
  ranges.push_back({kShim + shim::kDigestSlot, shim::kDigestSize});
  Tally tally;
  for (int round = 0; round < Rounds(10); ++round) {
    uint32_t seed = first + round;
    std::unique_ptr<ShimVm> vm = MakeVm();
    ASSERT_NE(vm, nullptr);
    Flipper flipper(vm->view_a(), ranges, round % 2 == 0, seed);
    ASSERT_NO_FATAL_FAILURE(Judge(Run(vm.get()), seed, &tally));
  }
  std::printf("seed %u: %s\n", first, Show(tally).c_str());
  EXPECT_EQ(tally.died, 0);
  // Lasting flips in the hand-over from the start cannot go unnoticed.
  EXPECT_GT(tally.refused, 0);
}

// The whole window, the shim's code, stack and page tables included, from
// before its first instruction. A shim that is destroyed before it can check
// itself may also just die.
TEST_P(ShimBootTest, FlippingTheWholeWindowNeverStartsAnythingElse) {
  uint32_t first = std::random_device()();
  std::vector<Range> ranges = PieceRanges();
  ranges.push_back({kShim, shim::kImageMax});
  ranges.push_back({kShim, shim::kShimSize});
  Tally tally;
  for (int round = 0; round < Rounds(10); ++round) {
    uint32_t seed = first + round;
    ShimVm::Options options;
    options.timeout_seconds = 10;
    std::unique_ptr<ShimVm> vm = MakeVm(std::move(options));
    ASSERT_NE(vm, nullptr);
    Flipper flipper(vm->view_a(), ranges, round % 2 == 0, seed);
    ASSERT_NO_FATAL_FAILURE(Judge(Run(vm.get()), seed, &tally));
  }
  std::printf("seed %u: %s\n", first, Show(tally).c_str());
}

// From the switch on, the whole window is at the host's mercy and the shim is
// not: only the pieces can still be refused.
TEST_P(ShimBootTest, FlippingEverythingAfterTheSwitchStartsOrRefuses) {
  uint32_t first = std::random_device()();
  std::vector<Range> ranges = {{kShim, shim::kShimSize},
                               {kShim + shim::kTablesOffset, 0x1000},
                               {kShim + shim::kStackOffset, shim::kStackSize}};
  Tally tally;
  for (int round = 0; round < Rounds(8); ++round) {
    uint32_t seed = first + round;
    bool pieces_too = round % 4 == 3;
    std::vector<Range> now = ranges;
    if (pieces_too) now = PieceRanges();
    std::unique_ptr<Flipper> flipper;
    ShimVm* raw = nullptr;
    ShimVm::Options options;
    options.on_status = [&](Status status) {
      if (status != Status::kPrivate) return;
      flipper = std::make_unique<Flipper>(raw->view_a(), now, true, seed);
    };
    std::unique_ptr<ShimVm> vm = MakeVm(std::move(options));
    ASSERT_NE(vm, nullptr);
    raw = vm.get();
    ShimOutcome outcome = Run(vm.get());
    ASSERT_NE(flipper, nullptr);
    flipper.reset();
    ASSERT_NO_FATAL_FAILURE(Judge(outcome, seed, &tally));
    if (pieces_too && outcome.end == End::kRefused) {
      EXPECT_EQ(outcome.status, Status::kPieceDigest);
    } else if (!pieces_too) {
      EXPECT_EQ(outcome.end, End::kHalted) << "seed " << seed;
    }
  }
  std::printf("seed %u: %s\n", first, Show(tally).c_str());
  EXPECT_EQ(tally.died, 0);
  EXPECT_GT(tally.started, 0);
}

std::string KindName(const ::testing::TestParamInfo<ShimVm::Kind>& info) {
  return info.param == ShimVm::Kind::kDefault ? "Default" : "SwProtected";
}

INSTANTIATE_TEST_SUITE_P(Kinds, ShimBootTest,
                         ::testing::Values(ShimVm::Kind::kDefault,
                                           ShimVm::Kind::kSwProtected),
                         KindName);
INSTANTIATE_TEST_SUITE_P(Kinds, ShimViewBTest,
                         ::testing::Values(ShimVm::Kind::kDefault), KindName);

}  // namespace
}  // namespace cloister::tests
