// JSON for reports, assembled from pieces: the library uses no JSON library.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>

namespace dmaflow::detail::json {

/// A JSON string. Names come from drivers and file systems, so bytes that are not UTF-8 become U+FFFD.
[[nodiscard]] std::string quote(std::string_view text);

/// A member of an object. @p value: JSON.
[[nodiscard]] std::string member(std::string_view key, const std::string& value);
[[nodiscard]] std::string member(std::string_view key, std::uint64_t value);

/// An object of members that member() made.
[[nodiscard]] std::string object(std::initializer_list<std::string> members);

/// An array. @p to_text turns each value into JSON.
template <typename Range, typename Function>
[[nodiscard]] std::string array(const Range& range, Function to_text) {
  std::string text = "[";
  for (const auto& value : range) {
    if (text.size() > 1) text += ",";
    text += to_text(value);
  }
  return text + "]";
}

}  // namespace dmaflow::detail::json
