// SPDX-License-Identifier: Apache-2.0
#include "cloister/api/json.h"

#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace cloister::api {
namespace {

// Builds the value from the parser's events, and stops it at what ParseJson
// does not allow. Recursion is the parser's own stack on the heap: depth costs
// nothing but what is counted here.
class Builder : public nlohmann::json_sax<Json> {
 public:
  bool null() override { return Add(nullptr); }
  bool boolean(bool value) override { return Add(value); }
  bool number_integer(number_integer_t value) override { return Add(value); }
  bool number_unsigned(number_unsigned_t value) override { return Add(value); }
  bool number_float(number_float_t value, const string_t&) override {
    return Add(value);
  }
  bool string(string_t& value) override { return Add(std::move(value)); }
  bool binary(binary_t&) override { return Fail("binary value"); }
  bool start_object(std::size_t) override { return Open(Json::object()); }
  bool end_object() override { return Close(); }
  bool start_array(std::size_t) override { return Open(Json::array()); }
  bool end_array() override { return Close(); }

  bool key(string_t& name) override {
    Json& object = *open_.back();
    if (object.contains(name)) {
      return Fail(absl::StrCat("key \"", absl::CHexEscape(name),
                               "\" appears twice in one object"));
    }
    key_ = &object[name];
    return true;
  }

  bool parse_error(std::size_t position, const std::string& token,
                   const Json::exception& error) override {
    // The library's text repeats the token, with line and column before it.
    const std::string what = error.what();
    const size_t colon = what.find("] ");
    error_ = absl::InvalidArgumentError(absl::StrCat(
        "not JSON at byte ", position, ": ",
        absl::CHexEscape(colon == std::string::npos ? token
                                                    : what.substr(colon + 2))));
    return false;
  }

  absl::Status error_;
  Json root_;

 private:
  bool Fail(absl::string_view what) {
    error_ = absl::InvalidArgumentError(what);
    return false;
  }
  // The place for the next value.
  Json* Place(Json value) {
    if (open_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    if (open_.back()->is_array()) {
      open_.back()->push_back(std::move(value));
      return &open_.back()->back();
    }
    *key_ = std::move(value);
    return key_;
  }
  bool Add(Json value) {
    Place(std::move(value));
    return true;
  }
  bool Open(Json value) {
    if (open_.size() == kMaxJsonDepth) {
      return Fail(
          absl::StrCat("more than ", kMaxJsonDepth, " levels of nesting"));
    }
    open_.push_back(Place(std::move(value)));
    return true;
  }
  bool Close() {
    open_.pop_back();
    return true;
  }

  // Stable: a container grows only while it is the innermost open one.
  std::vector<Json*> open_;
  Json* key_ = nullptr;
};

}  // namespace

absl::StatusOr<Json> ParseJson(absl::string_view text) {
  Builder builder;
  const bool parsed =
      Json::sax_parse(text.begin(), text.end(), &builder,
                      nlohmann::detail::input_format_t::json, /*strict=*/true);
  if (!builder.error_.ok()) return builder.error_;
  if (!parsed) return absl::InvalidArgumentError("not JSON");
  return std::move(builder.root_);
}

std::string JsonText(const Json& value, bool indented) {
  return value.dump(indented ? 2 : -1, ' ', false,
                    Json::error_handler_t::replace);
}

std::string HexText(uint64_t value) {
  return absl::StrCat("0x", absl::Hex(value));
}

}  // namespace cloister::api
