// SPDX-License-Identifier: Apache-2.0
#include "cloister/boot/shim/handover.h"

#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "cloister/base/status_matchers.h"
#include "cloister/boot/fdt.h"
#include "cloister/boot/shim/handover_reader.h"
#include "cloister/boot/shim/handover_writer.h"

namespace cloister::shim {
namespace {

constexpr uint64_t kMiB = 1 << 20;

Handover Sample() {
  Handover h;
  h.c_bit = 47;
  h.shim = 16 * kMiB;
  h.entry = 2 * kMiB + 0x40;
  h.boot_params = 1 * kMiB;
  h.vcpus = 2;
  h.hypercalls = 1;
  for (size_t i = 0; i < kDigestSize; ++i) {
    h.platform.bytes[i] = static_cast<uint8_t>(i);
  }
  h.ram_count = 2;
  h.ram[0] = {0, 0xa0000};
  h.ram[1] = {kMiB, 63 * kMiB};
  h.piece_count = 3;
  h.pieces[0] = {1, 2 * kMiB, 0x3000, 0x8000, {{1, 2, 3}}};
  h.pieces[1] = {4, kMiB, 0x1000, 0x1000, {{4, 5, 6}}};
  h.pieces[2] = {3, kMiB + 0x1000, 17, 0x800, {{7, 8, 9}}};
  return h;
}

std::vector<uint8_t> Tree(const Handover& handover) {
  auto tree = WriteHandover(handover);
  EXPECT_THAT(tree, base::IsOk());
  return *tree;
}

bool Same(const Handover& a, const Handover& b) {
  return a.c_bit == b.c_bit &&
         LaunchDigest(Digest(), 0, a) == LaunchDigest(Digest(), 0, b);
}

TEST(HandoverTest, ReadsWhatWasWritten) {
  Handover in = Sample();
  std::vector<uint8_t> tree = Tree(in);
  Handover out;
  ASSERT_TRUE(ReadHandover(tree.data(), tree.size(), &out));
  EXPECT_TRUE(Same(in, out));
  EXPECT_EQ(out.pieces[2].length, 17u);
  EXPECT_EQ(out.ram[1].size, 63 * kMiB);
  // The buffer may be larger than the tree, as it is in the shim.
  tree.resize(kHandoverMax);
  EXPECT_TRUE(ReadHandover(tree.data(), tree.size(), &out));
}

TEST(HandoverTest, ReadsTheLargestHandover) {
  Handover in = Sample();
  in.ram_count = kMaxRamRanges;
  in.piece_count = kMaxPieces;
  for (uint32_t i = 0; i < kMaxPieces; ++i) {
    in.pieces[i] = {2, 0xfffffffffffff000 - i, ~uint64_t{0}, ~uint64_t{0}, {}};
  }
  std::vector<uint8_t> tree = Tree(in);
  Handover out;
  ASSERT_TRUE(ReadHandover(tree.data(), tree.size(), &out));
  EXPECT_TRUE(Same(in, out));
}

TEST(HandoverTest, EveryTruncationIsRefused) {
  std::vector<uint8_t> tree = Tree(Sample());
  for (size_t size = 0; size < tree.size(); ++size) {
    // A copy of just that size, so that sanitizers see a read past it.
    std::vector<uint8_t> cut(tree.begin(), tree.begin() + size);
    Handover out;
    ASSERT_FALSE(ReadHandover(cut.data(), cut.size(), &out)) << size;
    if (size < 8) continue;
    // And when the header tells the truth about its size.
    cut[4] = 0, cut[5] = 0;
    cut[6] = static_cast<uint8_t>(size >> 8);
    cut[7] = static_cast<uint8_t>(size);
    ASSERT_FALSE(ReadHandover(cut.data(), cut.size(), &out)) << size;
  }
}

// The wire form is canonical: a flipped bit is refused, or it is a different
// hand-over, whose own wire form is exactly the flipped bytes.
TEST(HandoverTest, EveryFlippedBitIsRefusedOrSeen) {
  const std::vector<uint8_t> tree = Tree(Sample());
  int seen = 0;
  for (size_t bit = 0; bit < tree.size() * 8; ++bit) {
    std::vector<uint8_t> flipped = tree;
    flipped[bit / 8] ^= static_cast<uint8_t>(1 << (bit % 8));
    Handover out;
    if (!ReadHandover(flipped.data(), flipped.size(), &out)) continue;
    ++seen;
    ASSERT_EQ(Tree(out), flipped) << "bit " << bit % 8 << " of " << bit / 8;
    ASSERT_FALSE(Same(out, Sample()));
  }
  EXPECT_GT(seen, 0);
}

// Trees that differ from a hand-over in one thing each.
struct Change {
  const char* what;
  std::function<void(boot::FdtBuilder&)> write;
};

void Head(boot::FdtBuilder& fdt) {
  fdt.String("compatible", kCompatible);
  fdt.U32("c-bit", 47);
  fdt.U64("shim", 0x100000);
  fdt.U64("entry", 0x200000);
  fdt.U64("boot-params", 0x300000);
  fdt.U32("vcpus", 1);
  fdt.U32("hypercalls", 1);
  fdt.Bytes("platform", std::vector<uint8_t>(32));
}

void OnePiece(boot::FdtBuilder& fdt, const char* name = "piece@1000",
              bool extra = false, size_t digest = 32) {
  fdt.BeginNode(name);
  fdt.U32("type", 1);
  fdt.U64("gpa", 0x1000);
  fdt.U64("length", 1);
  fdt.U64("memory-size", 1);
  fdt.Bytes("sha256", std::vector<uint8_t>(digest));
  if (extra) fdt.Empty("extra");
  fdt.EndNode();
}

bool Reads(const std::function<void(boot::FdtBuilder&)>& write) {
  boot::FdtBuilder fdt;
  fdt.BeginNode("");
  write(fdt);
  fdt.EndNode();
  auto tree = fdt.Finish();
  EXPECT_THAT(tree, base::IsOk());
  Handover out;
  return ReadHandover(tree->data(), tree->size(), &out);
}

TEST(HandoverTest, AcceptsTheHandWrittenFormThatTheTableVaries) {
  EXPECT_TRUE(Reads([](boot::FdtBuilder& fdt) {
    Head(fdt);
    fdt.U64List("ram", {0, 0x1000});
    OnePiece(fdt);
  }));
  EXPECT_TRUE(Reads([](boot::FdtBuilder& fdt) {
    Head(fdt);
    fdt.U64List("ram", {0, 0x1000});
  }));
}

TEST(HandoverTest, RefusesEveryOtherForm) {
  const std::vector<uint64_t> ram = {0, 0x1000};
  const Change changes[] = {
      {"empty tree", [](boot::FdtBuilder&) {}},
      {"no ram", [](boot::FdtBuilder& f) { Head(f); }},
      {"no compatible",
       [&](boot::FdtBuilder& f) {
         f.U32("c-bit", 47);
         f.U64List("ram", ram);
       }},
      {"other version",
       [](boot::FdtBuilder& f) {
         f.String("compatible", "cloister,handover");
       }},
      {"other version of the same length",
       [&](boot::FdtBuilder& f) {
         f.String("compatible", "cloister,handover-v2");
         f.U32("c-bit", 47);
       }},
      {"empty ram",
       [](boot::FdtBuilder& f) {
         Head(f);
         f.U64List("ram", {});
       }},
      {"odd ram",
       [](boot::FdtBuilder& f) {
         Head(f);
         f.U64List("ram", {0, 0x1000, 0x2000});
       }},
      {"too much ram",
       [](boot::FdtBuilder& f) {
         Head(f);
         f.U64List("ram", std::vector<uint64_t>(2 * kMaxRamRanges + 2));
       }},
      {"ram first",
       [&](boot::FdtBuilder& f) {
         f.U64List("ram", ram);
         Head(f);
       }},
      {"property after ram",
       [&](boot::FdtBuilder& f) {
         Head(f);
         f.U64List("ram", ram);
         f.U32("more", 1);
       }},
      {"ram twice",
       [&](boot::FdtBuilder& f) {
         Head(f);
         f.U64List("ram", ram);
         f.U64List("ram", ram);
       }},
      {"hypercalls neither 0 nor 1",
       [&](boot::FdtBuilder& f) {
         f.String("compatible", kCompatible);
         f.U32("c-bit", 47);
         f.U64("shim", 0x100000);
         f.U64("entry", 0x200000);
         f.U64("boot-params", 0x300000);
         f.U32("vcpus", 1);
         f.U32("hypercalls", 2);
         f.Bytes("platform", std::vector<uint8_t>(32));
         f.U64List("ram", ram);
       }},
      {"c-bit of eight bytes",
       [&](boot::FdtBuilder& f) {
         f.String("compatible", kCompatible);
         f.U64("c-bit", 47);
       }},
      {"piece with another name",
       [&](boot::FdtBuilder& f) {
         Head(f);
         f.U64List("ram", ram);
         OnePiece(f, "part@1000");
       }},
      {"piece without an address",
       [&](boot::FdtBuilder& f) {
         Head(f);
         f.U64List("ram", ram);
         OnePiece(f, "piece@");
       }},
      {"piece with another address",
       [&](boot::FdtBuilder& f) {
         Head(f);
         f.U64List("ram", ram);
         OnePiece(f, "piece@1001");
       }},
      {"piece with a padded address",
       [&](boot::FdtBuilder& f) {
         Head(f);
         f.U64List("ram", ram);
         OnePiece(f, "piece@01000");
       }},
      {"piece with too long an address",
       [&](boot::FdtBuilder& f) {
         Head(f);
         f.U64List("ram", ram);
         OnePiece(f, "piece@10000000000001000");
       }},
      {"piece with an upper-case address",
       [&](boot::FdtBuilder& f) {
         Head(f);
         f.U64List("ram", ram);
         OnePiece(f, "piece@A000");
       }},
      {"piece with one property more",
       [&](boot::FdtBuilder& f) {
         Head(f);
         f.U64List("ram", ram);
         OnePiece(f, "piece@1000", true);
       }},
      {"piece with a short digest",
       [&](boot::FdtBuilder& f) {
         Head(f);
         f.U64List("ram", ram);
         OnePiece(f, "piece@1000", false, 31);
       }},
      {"piece in a piece",
       [&](boot::FdtBuilder& f) {
         Head(f);
         f.U64List("ram", ram);
         f.BeginNode("piece@1000");
         OnePiece(f);
         f.EndNode();
       }},
      {"too many pieces",
       [&](boot::FdtBuilder& f) {
         Head(f);
         f.U64List("ram", ram);
         for (uint32_t i = 0; i <= kMaxPieces; ++i) OnePiece(f);
       }},
  };
  for (const Change& change : changes) {
    EXPECT_FALSE(Reads(change.write)) << change.what;
  }
}

TEST(HandoverTest, RefusesHeadersThatLie) {
  const std::vector<uint8_t> tree = Tree(Sample());
  // Every 32-bit header field, with values around its limits.
  for (size_t field = 0; field < 40; field += 4) {
    uint32_t is = FdtCursor::Word(tree.data() + field);
    for (uint32_t value :
         {0u, 1u, 39u, 40u, 41u, 56u, is - 4, is - 1, is + 1, is + 4, is + 8,
          0x7fffffffu, 0x80000000u, 0xfffffff0u, 0xffffffffu}) {
      if (value == is) continue;
      std::vector<uint8_t> lie = tree;
      for (int i = 0; i < 4; ++i) {
        lie[field + i] = static_cast<uint8_t>(value >> (24 - 8 * i));
      }
      Handover out;
      EXPECT_FALSE(ReadHandover(lie.data(), lie.size(), &out))
          << "field at " << field << " = " << value;
    }
  }
}

TEST(HandoverTest, SamplePlacementIsValid) {
  EXPECT_TRUE(PlacementIsValid(Sample()));
}

TEST(HandoverTest, RefusesBadPlacement) {
  struct Case {
    const char* what;
    std::function<void(Handover&)> change;
  };
  const uint64_t kTop = ~uint64_t{0};
  const Case cases[] = {
      {"C-bit too low", [](Handover& h) { h.c_bit = 31; }},
      {"C-bit too high", [](Handover& h) { h.c_bit = 52; }},
      {"C-bit inside RAM",
       [](Handover& h) {
         h.c_bit = 32;
         h.ram[1].size = uint64_t{4} << 30;
       }},
      {"no RAM", [](Handover& h) { h.ram_count = 0; }},
      {"empty RAM", [](Handover& h) { h.ram[0].size = 0; }},
      {"unaligned RAM start", [](Handover& h) { h.ram[1].start += 0x800; }},
      {"unaligned RAM size", [](Handover& h) { h.ram[1].size += 0x800; }},
      {"overlapping RAM", [](Handover& h) { h.ram[0].size = 2 * kMiB; }},
      {"descending RAM",
       [](Handover& h) {
         RamRange first = h.ram[0];
         h.ram[0] = h.ram[1];
         h.ram[1] = first;
       }},
      {"wrapping RAM", [](Handover& h) { h.ram[1].size = ~uint64_t{0xfff}; }},
      {"no vCPU", [](Handover& h) { h.vcpus = 0; }},
      {"unaligned shim", [](Handover& h) { h.shim += 0x10; }},
      {"shim in low memory", [](Handover& h) { h.shim = 0x10000; }},
      {"shim outside RAM", [](Handover& h) { h.shim = 64 * kMiB; }},
      {"shim partly outside RAM",
       [](Handover& h) { h.shim = 64 * kMiB - 0x1000; }},
      {"shim at the top", [&](Handover& h) { h.shim = kTop & ~0xfffull; }},
      {"piece over the shim", [](Handover& h) { h.pieces[2].gpa = h.shim; }},
      {"piece over the shim's last byte",
       [](Handover& h) { h.pieces[2].gpa = h.shim + kShimSize - 1; }},
      {"piece reaching into the shim",
       [](Handover& h) {
         h.pieces[2].gpa = h.shim - 0x400;
         h.pieces[2].memory_size = 0x401;
       }},
      {"BSS over the shim",
       [](Handover& h) { h.pieces[0].memory_size = 15 * kMiB; }},
      {"piece in low memory", [](Handover& h) { h.pieces[2].gpa = 0x9000; }},
      {"piece in the hole", [](Handover& h) { h.pieces[2].gpa = 0xa0000; }},
      {"piece straddling the end of RAM",
       [](Handover& h) { h.pieces[2].gpa = 64 * kMiB - 0x400; }},
      {"piece at the top",
       [&](Handover& h) { h.pieces[2].gpa = kTop - 0x7ff; }},
      {"wrapping piece", [&](Handover& h) { h.pieces[2].memory_size = kTop; }},
      {"empty piece",
       [](Handover& h) {
         h.pieces[2].length = 0;
         h.pieces[2].memory_size = 0;
       }},
      {"more data than memory",
       [](Handover& h) { h.pieces[2].length = 0x801; }},
      {"pieces overlap by a byte",
       [](Handover& h) { h.pieces[2].gpa = kMiB + 0xfff; }},
      {"the same piece twice", [](Handover& h) { h.pieces[2] = h.pieces[1]; }},
      {"entry outside the kernel", [](Handover& h) { h.entry = kMiB; }},
      {"entry in the kernel's BSS",
       [](Handover& h) { h.entry = 2 * kMiB + 0x3000; }},
      {"entry before the kernel", [](Handover& h) { h.entry = 2 * kMiB - 1; }},
      {"entry in another piece", [](Handover& h) { h.pieces[0].type = 2; }},
      {"RSI inside a piece", [](Handover& h) { h.boot_params += 8; }},
      {"no pieces", [](Handover& h) { h.piece_count = 0; }},
  };
  for (const Case& c : cases) {
    Handover handover = Sample();
    c.change(handover);
    EXPECT_FALSE(PlacementIsValid(handover)) << c.what;
  }
}

TEST(HandoverTest, TargetsAbove4GiBAreRefused) {
  Handover h = Sample();
  h.ram_count = 3;
  h.ram[2] = {uint64_t{4} << 30, uint64_t{1} << 30};
  EXPECT_TRUE(PlacementIsValid(h));
  h.pieces[2].gpa = uint64_t{4} << 30;
  EXPECT_FALSE(PlacementIsValid(h));
  // One range across 4 GiB: a target must end below.
  h = Sample();
  h.ram[1].size = uint64_t{8} << 30;
  h.pieces[2].gpa = (uint64_t{4} << 30) - 0x800;
  EXPECT_TRUE(PlacementIsValid(h));
  h.pieces[2].gpa += 1;
  EXPECT_FALSE(PlacementIsValid(h));
}

TEST(HandoverTest, ImageDigestIgnoresOnlyTheSlot) {
  std::vector<uint8_t> image(200);
  for (size_t i = 0; i < image.size(); ++i) image[i] = static_cast<uint8_t>(i);
  Digest digest = ImageDigest(image.data(), image.size());
  for (size_t i = 0; i < image.size(); ++i) {
    std::vector<uint8_t> changed = image;
    changed[i] ^= 1;
    bool in_slot = i >= kDigestSlot && i < kDigestSlot + kDigestSize;
    EXPECT_EQ(ImageDigest(changed.data(), changed.size()) == digest, in_slot)
        << i;
  }
}

}  // namespace
}  // namespace cloister::shim
