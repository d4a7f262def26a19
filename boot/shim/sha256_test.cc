// SPDX-License-Identifier: Apache-2.0
#include "cloister/boot/shim/sha256.h"

#include <openssl/sha.h>

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/string_view.h"
#include "gtest/gtest.h"

namespace cloister::shim {
namespace {

std::string Hex(const Digest& digest) {
  return absl::BytesToHexString(absl::string_view(
      reinterpret_cast<const char*>(digest.bytes), kDigestSize));
}

std::string HashOf(const std::string& message) {
  return Hex(Sha256::Hash(reinterpret_cast<const uint8_t*>(message.data()),
                          message.size()));
}

struct Vector {
  std::string message;
  std::string digest;
};

// FIPS 180-4 examples, NIST's additional SHA-256 examples, and SHAVS
// SHA256ShortMsg.rsp.
TEST(Sha256Test, NistVectors) {
  const Vector vectors[] = {
      {"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
      {"abc",
       "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
      {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
       "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
      {"abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmn"
       "hijklmnoijklmnopjklmnopqklmnopqrlmnopqrsmnopqrstnopqrstu",
       "cf5b16a778af8380036ce59e7b0492370b249b11e8f07a51afac45037afee9d1"},
      {"\xd3",
       "28969cdfa74a12c82f3bad960b0b000aca2ac329deea5c2328ebc6f2ba9802c1"},
      {"\x11\xaf",
       "5ca7133fa735326081558ac312c620eeca9970d1e70a4b95533d956f072d1f98"},
      {"\xbd",
       "68325720aabd7c82f30f554b313d0570c95accbb7dc4b5aae11204c08ffe732b"},
      {"\xc9\x8c\x8e\x55",
       "7abc22c0ae5af26ce93dbb94433a0e0b2e119d014f8e7f65bd56c61ccccd9504"},
      {std::string(55, '\0'),
       "02779466cdec163811d078815c633f21901413081449002f24aa3e80f0b88ef7"},
      {std::string(56, '\0'),
       "d4817aa5497628e7c77e6b606107042bbba3130888c5f47a375e6179be789fbb"},
      {std::string(57, '\0'),
       "65a16cb7861335d5ace3c60718b5052e44660726da4cd13bb745381b235a1785"},
      {std::string(64, '\0'),
       "f5a5fd42d16a20302798ef6ed309979b43003d2320d9f0e8ea9831a92759fb4b"},
      {std::string(1000, '\0'),
       "541b3e9daa09b20bf85fa273e5cbd3e80185aa4ec298e765db87742b70138a53"},
      {std::string(1000, 'A'),
       "c2e686823489ced2017f6059b8b239318b6364f6dcd835d0a519105a1eadd6e4"},
      {std::string(1005, 'U'),
       "f4d62ddec0f3dd90ea1380fa16a5ff8dc4c54b21740650f24afc4120903552b0"},
      {std::string(1000000, '\0'),
       "d29751f2649b32ff572b5e0a9f541ea660a50f94ff0beedfb0b692b924cc8025"},
      {std::string(1000000, 'a'),
       "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"},
  };
  for (const Vector& vector : vectors) {
    EXPECT_EQ(HashOf(vector.message), vector.digest)
        << vector.message.size() << " bytes";
  }
}

TEST(Sha256Test, AgreesWithLibcryptoHoweverTheInputIsCut) {
  std::mt19937_64 random(20240229);
  for (int round = 0; round < 2000; ++round) {
    std::vector<uint8_t> message(random() % 700);
    for (uint8_t& byte : message) byte = static_cast<uint8_t>(random());
    Sha256 hash;
    for (size_t at = 0; at < message.size();) {
      size_t step = std::min<size_t>(random() % 150, message.size() - at);
      hash.Update(message.data() + at, step);
      at += step;
    }
    Digest expected;
    SHA256(message.data(), message.size(), expected.bytes);
    ASSERT_EQ(Hex(hash.Finish()), Hex(expected))
        << "round " << round << ", " << message.size() << " bytes";
  }
}

TEST(Sha256Test, EveryLengthAroundABlock) {
  std::vector<uint8_t> message(260, 0xa5);
  for (size_t size = 0; size <= message.size(); ++size) {
    Digest expected;
    SHA256(message.data(), size, expected.bytes);
    ASSERT_EQ(Hex(Sha256::Hash(message.data(), size)), Hex(expected)) << size;
  }
}

TEST(Sha256Test, IntegersAreLittleEndian) {
  Sha256 integers;
  integers.UpdateU32(0x04030201);
  integers.UpdateU64(0x0c0b0a0908070605);
  const uint8_t bytes[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
  EXPECT_EQ(Hex(integers.Finish()), Hex(Sha256::Hash(bytes, sizeof(bytes))));
}

// The same code can run in the compiler, which knows no library at all.
constexpr uint8_t kAbc[] = {'a', 'b', 'c'};
static_assert(Sha256::Hash(kAbc, sizeof(kAbc)).bytes[0] == 0xba);
static_assert(Sha256::Hash(kAbc, sizeof(kAbc)).bytes[31] == 0xad);

}  // namespace
}  // namespace cloister::shim
