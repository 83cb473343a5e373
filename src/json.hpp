// JSON for reports, written piece by piece: the library has no JSON library behind it.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>

namespace dmaflow::detail::json {

/// A JSON string. Names come from drivers and file systems, so bytes that are no UTF-8 become U+FFFD.
[[nodiscard]] std::string quote(std::string_view text);

/// A member of an object. @p value: JSON.
[[nodiscard]] std::string member(std::string_view key, const std::string& value);
[[nodiscard]] std::string member(std::string_view key, std::uint64_t value);

/// Of members that member() made.
[[nodiscard]] std::string object(std::initializer_list<std::string> members);

/// @p to_text makes JSON of each value.
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
