#include "controls.hpp"

#include <cctype>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <limits>
#include <optional>

namespace dmaflow::v4l2 {
namespace {

std::optional<Control::Kind> kind_of(std::uint32_t type) noexcept {
  switch (type) {
    case V4L2_CTRL_TYPE_INTEGER:
    case V4L2_CTRL_TYPE_INTEGER64:
      return Control::Kind::integer;
    case V4L2_CTRL_TYPE_BOOLEAN:
      return Control::Kind::boolean;
    case V4L2_CTRL_TYPE_MENU:
      return Control::Kind::menu;
    case V4L2_CTRL_TYPE_INTEGER_MENU:
      return Control::Kind::integer_menu;
    case V4L2_CTRL_TYPE_BUTTON:
      return Control::Kind::button;
    case V4L2_CTRL_TYPE_BITMASK:
      return Control::Kind::bitmask;
    case V4L2_CTRL_TYPE_STRING:
      return Control::Kind::text;
    default:
      return std::nullopt;  // class headings and compound controls
  }
}

std::vector<Control::Item> items_of(const Device& device, const v4l2_query_ext_ctrl& query) {
  std::vector<Control::Item> items;
  constexpr std::int64_t most = 1024;
  for (std::int64_t index = query.minimum; index <= query.maximum && index < query.minimum + most; ++index) {
    v4l2_querymenu menu{};
    menu.id = query.id;
    menu.index = static_cast<__u32>(index);
    if (device.try_call(DMAFLOW_V4L2_OP(VIDIOC_QUERYMENU), &menu) < 0) continue;  // menus may have gaps
    const char* text = reinterpret_cast<const char*>(menu.name);
    const bool number = query.type == V4L2_CTRL_TYPE_INTEGER_MENU;
    items.push_back({index, number ? std::to_string(menu.value) : std::string(text, strnlen(text, sizeof menu.name))});
  }
  return items;
}

Control to_control(const v4l2_query_ext_ctrl& query, Control::Kind kind) {
  Control control;
  control.id = query.id;
  control.name.assign(query.name, strnlen(query.name, sizeof query.name));
  control.kind = kind;
  control.minimum = query.minimum;
  control.maximum = query.maximum;
  control.step = query.step;
  control.default_value = query.default_value;
  control.read_only = (query.flags & V4L2_CTRL_FLAG_READ_ONLY) != 0;
  control.inactive = (query.flags & V4L2_CTRL_FLAG_INACTIVE) != 0;
  return control;
}

/// True for a control of 64 bits, false for one of 32.
bool is_wide(const Device& device, std::uint32_t id) noexcept {
  v4l2_query_ext_ctrl query{};
  query.id = id;
  return device.try_call(DMAFLOW_V4L2_OP(VIDIOC_QUERY_EXT_CTRL), &query) == 0 && query.type == V4L2_CTRL_TYPE_INTEGER64;
}

Result<Control> find(const Device& device, std::string_view name) {
  std::vector<Control> all = list_controls(device);
  for (Control& control : all) {
    if (same_name(control.name, name)) return std::move(control);
  }
  std::string list;
  for (const Control& control : all) {
    if (list.size() > 250) {
      list += ", ...";
      break;
    }
    list += (list.empty() ? "" : ", ") + control.name;
  }
  return std::unexpected(device.error(EINVAL, "VIDIOC_QUERY_EXT_CTRL")
                             .detail("no control \"%.*s\"; it has: %s", static_cast<int>(name.size()), name.data(),
                                     list.empty() ? "none" : list.c_str()));
}

v4l2_ext_controls one(v4l2_ext_control& control) noexcept {
  v4l2_ext_controls list{};
  list.which = V4L2_CTRL_WHICH_CUR_VAL;
  list.count = 1;
  list.controls = &control;
  return list;
}

Result<void> write(const Device& device, const Control& control, std::int64_t value) {
  const auto refuse = [&](int code) { return device.error(code, "VIDIOC_S_EXT_CTRLS"); };
  if (control.read_only) return std::unexpected(refuse(EACCES).detail("\"%s\" is read only", control.name.c_str()));
  if (control.kind == Control::Kind::text) {
    return std::unexpected(
        refuse(EINVAL).detail("\"%s\" is a text control, which dmaflow does not set", control.name.c_str()));
  }
  const bool ranged = control.kind == Control::Kind::integer || control.kind == Control::Kind::boolean ||
                      control.kind == Control::Kind::menu || control.kind == Control::Kind::integer_menu;
  if (ranged && (value < control.minimum || value > control.maximum)) {
    return std::unexpected(refuse(ERANGE).detail(
        "\"%s\" goes from %lld to %lld, not %lld", control.name.c_str(), static_cast<long long>(control.minimum),
        static_cast<long long>(control.maximum), static_cast<long long>(value)));
  }
  v4l2_ext_control entry{};
  entry.id = control.id;
  if (is_wide(device, control.id)) {
    entry.value64 = value;
  } else {
    entry.value = static_cast<__s32>(value);
  }
  v4l2_ext_controls list = one(entry);
  if (auto done = device.call(DMAFLOW_V4L2_OP(VIDIOC_S_EXT_CTRLS), &list); !done) {
    Error error = done.error();
    error.detail("\"%s\" cannot be set to %lld now", control.name.c_str(), static_cast<long long>(value));
    return std::unexpected(error);
  }
  return {};
}

/// Parses "3", "true" or "50 Hz" as the value of a control.
std::optional<std::int64_t> read_value(const Control& control, std::string_view text) {
  for (const Control::Item& item : control.items) {
    if (same_name(item.name, text)) return item.index;
  }
  if (same_name(text, "true") || same_name(text, "on")) return 1;
  if (same_name(text, "false") || same_name(text, "off")) return 0;
  std::int64_t value = 0;
  const auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (problem == std::errc{} && end == text.data() + text.size()) return value;
  return std::nullopt;
}

}  // namespace

bool same_name(std::string_view a, std::string_view b) noexcept {
  // Compares both, with each run of other characters as one separator, and none at either end.
  const auto word = [](char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0; };
  const auto next = [&](std::string_view text, std::size_t& at, bool begun) -> int {
    const std::size_t before = at;
    while (at < text.size() && !word(text[at])) ++at;
    if (at == text.size()) return -1;
    if (begun && at != before) return ' ';
    return std::tolower(static_cast<unsigned char>(text[at++]));
  };
  std::size_t i = 0;
  std::size_t j = 0;
  bool begun = false;
  bool after_space = false;
  while (true) {
    const int x = next(a, i, begun && !after_space);
    const int y = next(b, j, begun && !after_space);
    if (x != y) return false;
    if (x < 0) return begun;
    after_space = x == ' ';
    begun = true;
  }
}

std::vector<Control> list_controls(const Device& device) {
  std::vector<Control> controls;
  v4l2_query_ext_ctrl query{};
  constexpr int most = 4096;
  for (int count = 0; count < most; ++count) {
    query.id |= V4L2_CTRL_FLAG_NEXT_CTRL;  // without NEXT_COMPOUND: arrays and structures are left out
    if (device.try_call(DMAFLOW_V4L2_OP(VIDIOC_QUERY_EXT_CTRL), &query) < 0) break;
    const auto kind = kind_of(query.type);
    if (!kind || (query.flags & V4L2_CTRL_FLAG_DISABLED) != 0) continue;
    Control control = to_control(query, *kind);
    if (*kind == Control::Kind::menu || *kind == Control::Kind::integer_menu) control.items = items_of(device, query);
    controls.push_back(std::move(control));
  }
  return controls;
}

Result<std::int64_t> get_control(const Device& device, std::string_view name) {
  auto control = find(device, name);
  if (!control) return std::unexpected(control.error());
  if (control->kind == Control::Kind::button || control->kind == Control::Kind::text) {
    return std::unexpected(
        device.error(EACCES, "VIDIOC_G_EXT_CTRLS").detail("\"%s\" has no value to read", control->name.c_str()));
  }
  v4l2_ext_control entry{};
  entry.id = control->id;
  v4l2_ext_controls list = one(entry);
  if (auto done = device.call(DMAFLOW_V4L2_OP(VIDIOC_G_EXT_CTRLS), &list); !done) return std::unexpected(done.error());
  return is_wide(device, control->id) ? std::int64_t{entry.value64} : std::int64_t{entry.value};
}

Result<void> set_control(const Device& device, std::string_view name, std::int64_t value) {
  auto control = find(device, name);
  if (!control) return std::unexpected(control.error());
  return write(device, *control, value);
}

Result<void> set_control(const Device& device, std::string_view name, std::string_view text) {
  auto control = find(device, name);
  if (!control) return std::unexpected(control.error());
  if (const auto value = read_value(*control, text)) return write(device, *control, *value);
  std::string list;
  for (const Control::Item& item : control->items) list += (list.empty() ? "" : ", ") + item.name;
  return std::unexpected(device.error(EINVAL, "VIDIOC_S_EXT_CTRLS")
                             .detail("\"%s\" cannot be \"%.*s\"%s%s", control->name.c_str(),
                                     static_cast<int>(text.size()), text.data(),
                                     list.empty() ? "" : "; it has: ", list.c_str()));
}

std::int64_t control_or(const Device& device, std::uint32_t id, std::int64_t fallback) noexcept {
  v4l2_ext_control entry{};
  entry.id = id;
  v4l2_ext_controls list = one(entry);
  return device.try_call(DMAFLOW_V4L2_OP(VIDIOC_G_EXT_CTRLS), &list) == 0 ? entry.value : fallback;
}

}  // namespace dmaflow::v4l2
