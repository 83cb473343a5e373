#include "json.hpp"

#include <algorithm>
#include <cstddef>

namespace dmaflow::detail::json {
namespace {

/// Length of the well-formed UTF-8 sequence that @p text begins with, or 0.
std::size_t utf8_length(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = byte(0);
  const std::size_t length = lead < 0x80                   ? 1
                             : lead >= 0xc2 && lead < 0xe0 ? 2
                             : (lead & 0xf0U) == 0xe0      ? 3
                             : lead >= 0xf0 && lead < 0xf5 ? 4
                                                           : 0;
  if (length == 0 || length > text.size()) return 0;
  for (std::size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xc0U) != 0x80) return 0;
  }
  const bool overlong = (lead == 0xe0 && byte(1) < 0xa0) || (lead == 0xf0 && byte(1) < 0x90);
  const bool surrogate_or_beyond = (lead == 0xed && byte(1) >= 0xa0) || (lead == 0xf4 && byte(1) >= 0x90);
  return overlong || surrogate_or_beyond ? 0 : length;
}

}  // namespace

std::string quote(std::string_view text) {
  std::string result = "\"";
  while (!text.empty()) {
    const auto c = static_cast<unsigned char>(text.front());
    const std::size_t length = utf8_length(text);
    if (length == 0) {
      result += "\\ufffd";
    } else if (c < 0x20) {
      constexpr std::string_view digits = "0123456789abcdef";
      result.append("\\u00").append(1, digits[c >> 4U]).append(1, digits[c & 0xfU]);
    } else {
      if (c == '"' || c == '\\') result += '\\';
      result += text.substr(0, length);
    }
    text.remove_prefix(std::max<std::size_t>(length, 1));
  }
  return result + "\"";
}

std::string member(std::string_view key, const std::string& value) { return quote(key) + ":" + value; }

std::string member(std::string_view key, std::uint64_t value) { return member(key, std::to_string(value)); }

std::string object(std::initializer_list<std::string> members) {
  std::string text = "{";
  for (const std::string& one : members) {
    if (text.size() > 1) text += ",";
    text += one;
  }
  return text + "}";
}

}  // namespace dmaflow::detail::json
