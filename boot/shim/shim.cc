// SPDX-License-Identifier: Apache-2.0
//
// The shim: guest code that moves a measured launch image from memory that the
// monitor can write (view A) into private memory (view B), and starts it only
// if it is what the launch digest says.
//
// Until CR3 points into view B the host can rewrite this code under its feet;
// a backend that cannot start a guest in private memory therefore detects
// mistakes, not attackers. From kPrivateEntry on, all that is trusted lies in
// view B: whatever comes from view A is copied once, and the copy is checked.
//
// Freestanding and position-independent. The image is never written: all state
// is on the stack, in the page tables and in the copies.
#include <cstddef>
#include <cstdint>

#include "cloister/boot/shim/handover.h"
#include "cloister/boot/shim/handover_reader.h"
#include "cloister/boot/shim/layout.h"
#include "cloister/boot/shim/offsets.h"
#include "cloister/boot/shim/page_tables.h"
#include "cloister/boot/shim/sha256.h"

namespace cloister::shim {
namespace {

static_assert(SHIM_PRIVATE_ENTRY == kPrivateEntry);
static_assert(SHIM_DIGEST_SLOT == kDigestSlot);
static_assert(SHIM_DIGEST_SIZE == kDigestSize);
static_assert(SHIM_STACK_END == kStackOffset + kStackSize);
static_assert(SHIM_CODE_SELECTOR == kCodeSelector);
static_assert(SHIM_DATA_SELECTOR == kDataSelector);

// Defined by start.S and the linker script.
extern "C" const uint8_t kShimImageEnd[];
extern "C" [[noreturn]] void EnterKernel(uint64_t entry, uint64_t boot_params);

void Out8(uint16_t port, uint8_t value) {
  asm volatile("outb %0, %1" : : "a"(value), "Nd"(port) : "memory");
}

void Print(const char* text) {
  for (; *text != 0; ++text) Out8(kSerialPort, static_cast<uint8_t>(*text));
}

[[noreturn]] void Refuse(Status status) {
  Print("cloister shim: refused: ");
  Print(RefusalText(status));
  Print("\r\n");
  Out8(kStatusPort, static_cast<uint8_t>(status));
  for (;;) asm volatile("cli; hlt");
}

struct CpuidResult {
  uint32_t eax, ebx, ecx, edx;
};

CpuidResult Cpuid(uint32_t leaf) {
  CpuidResult r;
  asm volatile("cpuid"
               : "=a"(r.eax), "=b"(r.ebx), "=c"(r.ecx), "=d"(r.edx)
               : "a"(leaf), "c"(0));
  return r;
}

// 1 << C, from CPUID 0x8000001F (APM vol. 3, E.4.17).
uint64_t EncryptionBit() {
  constexpr uint32_t kLeaf = 0x8000001f;
  if (Cpuid(0x80000000).eax < kLeaf) Refuse(Status::kNoEncryption);
  CpuidResult r = Cpuid(kLeaf);
  uint32_t position = r.ebx & 0x3f;
  if ((r.eax & 2) == 0 || position < 32 || position > 51) {
    Refuse(Status::kNoEncryption);
  }
  return uint64_t{1} << position;
}

uint64_t ReadCr3() {
  uint64_t value;
  asm volatile("mov %%cr3, %0" : "=r"(value));
  return value;
}

void WriteCr3(uint64_t value) {
  asm volatile("mov %0, %%cr3" : : "r"(value) : "memory");
}

template <typename T>
T* At(uint64_t address) {
  return reinterpret_cast<T*>(address);
}

// Reads every source byte exactly once.
void Copy(uint64_t to, uint64_t from, uint64_t size) {
  uint64_t words = size / 8;
  asm volatile("rep movsq" : "+D"(to), "+S"(from), "+c"(words) : : "memory");
  uint64_t rest = size % 8;
  asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(rest) : : "memory");
}

void VerifyLaunchDigest(uint64_t base, const Handover& handover) {
  const uint8_t* image = At<const uint8_t>(base);
  size_t size = reinterpret_cast<uint64_t>(kShimImageEnd) - base;
  Digest digest = LaunchDigest(ImageDigest(image, size), size, handover);
  for (size_t i = 0; i < kDigestSize; ++i) {
    if (digest.bytes[i] != image[kDigestSlot + i]) {
      Refuse(Status::kLaunchDigest);
    }
  }
}

// Moves one piece to view B and checks the copy. The memory after its data is
// private memory nobody has written: zeroes, left untouched.
void PlacePiece(const HandoverPiece& piece) {
  Copy(piece.gpa, kWindow + piece.gpa, piece.length);
  if (Sha256::Hash(At<const uint8_t>(piece.gpa), piece.length) !=
      piece.digest) {
    Refuse(Status::kPieceDigest);
  }
}

// KVM_HC_MAP_GPA_RANGE (Documentation/virt/kvm/x86/hypercalls.rst).
int64_t MapGpaRangePrivate(uint64_t gpa, uint64_t pages) {
  constexpr int64_t kMapGpaRange = 12;
  constexpr uint64_t kEncrypted = 1 << 4;
  int64_t rax = kMapGpaRange;
  asm volatile("vmmcall"
               : "+a"(rax)
               : "b"(gpa), "c"(pages), "d"(kEncrypted)
               : "memory");
  return rax;
}

// Gives up view A: everything above the shared low memory is private from now
// on. In bounded steps, so that no single request keeps the monitor long.
void ReportPrivate(const Handover& handover) {
  constexpr uint64_t kStep = uint64_t{256} << 20;
  for (uint32_t i = 0; i < handover.ram_count; ++i) {
    uint64_t at = handover.ram[i].start;
    uint64_t end = at + handover.ram[i].size;
    if (at < kLowest) at = kLowest;
    while (at < end) {
      uint64_t size = end - at < kStep ? end - at : kStep;
      if (MapGpaRangePrivate(at, size / 4096) != 0) Refuse(Status::kHypercall);
      at += size;
    }
  }
}

}  // namespace

// In view A: brings the shim and the hand-over into view B. Returns the CR3 to
// go on with.
extern "C" uint64_t CopyToPrivate(uint64_t base) {
  uint64_t c_bit = EncryptionBit();
  uint64_t size = reinterpret_cast<uint64_t>(kShimImageEnd) - base;
  Copy(kWindow + base, base, size);
  uint64_t handover = base + kHandoverOffset;
  uint32_t total =
      __builtin_bswap32(*At<const volatile uint32_t>(handover + 4));
  if (total > kHandoverMax) Refuse(Status::kBadHandover);
  Copy(kWindow + handover, handover, total);
  uint64_t tables = base + kTablesOffset;
  BuildPageTables(At<uint64_t>(kWindow + tables), tables, c_bit, c_bit, 0);
  return tables | c_bit;
}

// In view B: checks everything, moves the pieces over, starts the kernel.
extern "C" [[noreturn]] void LaunchFromPrivate(uint64_t base) {
  uint64_t c_bit = EncryptionBit();
  uint64_t tables = base + kTablesOffset;
  if (ReadCr3() != (tables | c_bit)) Refuse(Status::kNotPrivate);
  Out8(kStatusPort, static_cast<uint8_t>(Status::kPrivate));

  Handover handover;
  if (!ReadHandover(At<const uint8_t>(base + kHandoverOffset), kHandoverMax,
                    &handover)) {
    Refuse(Status::kBadHandover);
  }
  if (handover.c_bit > 51 || uint64_t{1} << handover.c_bit != c_bit) {
    Refuse(Status::kCBitMismatch);
  }
  if (handover.shim != base || !PlacementIsValid(handover)) {
    Refuse(Status::kBadPlacement);
  }
  VerifyLaunchDigest(base, handover);
  for (uint32_t i = 0; i < handover.piece_count; ++i) {
    PlacePiece(handover.pieces[i]);
  }
  // Nothing of view A is read from here on, not even by accident.
  At<uint64_t>(tables)[kWindowIndex] = 0;
  WriteCr3(tables | c_bit);
  if (handover.hypercalls != 0) ReportPrivate(handover);
  Out8(kStatusPort, static_cast<uint8_t>(Status::kVerified));
  EnterKernel(handover.entry, handover.boot_params);
}

}  // namespace cloister::shim
