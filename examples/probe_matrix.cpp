#include "probe_matrix.hpp"

#include "probe_parties.hpp"
#include "probe_progress.hpp"

#include <algorithm>
#include <cerrno>

using namespace dmaflow;

namespace {

/// One buffer may work by chance: scattered memory can happen to be contiguous. A stream needs several anyway.
constexpr std::uint32_t buffers_tried = 3;

/// What the maker is asked for: a stream that the user reports to accept, and the possible modifiers, LINEAR first.
struct Wish {
  StreamConfig config{};
  std::vector<Modifier> modifiers{};
};

/// Says which of the two does not know the requested format, or that they have no format in common.
Error no_common_format(const Maker& maker, const User& user, const std::vector<FormatModifier>& taken,
                       const MatrixOptions& options) {
  if (!options.format) {
    return Error::os(EINVAL, "choose a format", user.party.label).detail("there is none that both know");
  }
  const bool is_taken = std::ranges::find(taken, *options.format, &FormatModifier::format) != taken.end();
  return Error::os(EINVAL, "choose a format", (is_taken ? maker.party : user.party).label)
      .detail("it does not %s %s", is_taken ? "make" : "take", options.format->name().c_str());
}

Result<Wish> wish_for(Maker& maker, User& user, const MatrixOptions& options) {
  const auto known = user.formats();
  if (!known) return std::unexpected(known.error());
  const auto is_common = [&](FormatModifier pair) { return maker.makes(pair.format); };
  const PixelFormat first = options.format.value_or(formats::xrgb8888);
  auto found = std::ranges::find_if(*known, [&](auto pair) { return pair.format == first && is_common(pair); });
  if (found == known->end() && !options.format) found = std::ranges::find_if(*known, is_common);
  if (found == known->end()) return std::unexpected(no_common_format(maker, user, *known, options));
  Wish wish;
  for (const FormatModifier& pair : *known) {
    if (pair.format == found->format) wish.modifiers.push_back(pair.modifier);
  }
  const auto linear = std::ranges::find(wish.modifiers, Modifier::linear());
  if (linear != wish.modifiers.end()) std::rotate(wish.modifiers.begin(), linear, linear + 1);
  wish.config.layout.format = found->format;
  wish.config.layout.modifier = wish.modifiers.front();
  wish.config.layout.size = options.size.value_or(user.size());
  return wish;
}

/// LINEAR if the maker can make it, because every device understands it; else one of the user's other modifiers.
Result<std::vector<Buffer>> make(Maker& maker, const StreamConfig& config, const std::vector<Modifier>& modifiers) {
  auto buffers = maker.make(config, {modifiers.front()}, buffers_tried);
  if (buffers || modifiers.size() == 1) return buffers;
  auto other = maker.make(config, {modifiers.begin() + 1, modifiers.end()}, buffers_tried);
  return other ? std::move(other) : std::move(buffers);
}

std::string note_on(const Maker& maker, const User& user, const Layout& layout) {
  if (maker.party.group == "camera" && maker.party.id == user.party.id) return "its own memory";
  if (layout.modifier.is_implicit()) return "only where the arrangement of pixels is left to the driver (no modifier)";
  if (layout.modifier.is_vendor()) return "only in an arrangement of the vendor's";
  return {};
}

/// Does what the negotiation does: the user says what it wants, the maker makes it, and if the resulting strides are
/// longer, the user adapts.
Result<std::string> try_to_share(Maker& maker, User& user, const Wish& wish, Cell& cell) {
  const auto wanted = user.prepare(wish.config);
  if (!wanted) return std::unexpected(wanted.error());
  const auto buffers = make(maker, *wanted, wish.modifiers);
  if (!buffers) return std::unexpected(buffers.error());
  cell.layout = buffers->front().layout();
  cell.origin = buffers->front().origin();
  if (cell.layout != wanted->layout) {
    StreamConfig follow = *wanted;
    follow.layout = cell.layout;
    if (auto prepared = user.prepare(follow); !prepared) return std::unexpected(prepared.error());
  }
  Result<std::string> note;
  for (const Buffer& buffer : *buffers) {
    note = user.import(buffer);
    if (!note) break;
  }
  return note;
}

Cell try_cell(Maker& maker, User& user, const MatrixOptions& options) {
  Cell cell;
  const auto wish = wish_for(maker, user, options);
  if (!wish) {
    cell.refusal = wish.error();
    return cell;
  }
  cell.layout = wish->config.layout;
  const auto note = try_to_share(maker, user, *wish, cell);
  if (!note) {
    cell.refusal = note.error();
  } else {
    cell.note = !note->empty() ? *note : note_on(maker, user, cell.layout);
  }
  return cell;
}

Json parties_json(const std::vector<Party>& parties) {
  Json result = Json::array();
  for (const Party& party : parties) {
    result.push_back({{"id", party.id}, {"group", party.group}, {"label", party.label}});
  }
  return result;
}

Json cell_json(const Cell& cell, const Party& allocator, const Party& user) {
  const bool is_busy = cell.refusal && cell.refusal->code() == EBUSY;
  Json result{{"allocator", allocator.id}, {"user", user.id}};
  result["result"] = !cell.refusal ? "yes" : is_busy ? "busy" : "no";
  if (!cell.note.empty()) result["note"] = cell.note;
  if (cell.refusal) result["reason"] = ::as_json(*cell.refusal);
  if (cell.layout.format.fourcc != 0) {  // they have a format in common
    const Size size = cell.layout.size;
    result["format"] = cell.layout.format.code();
    result["modifier"] = cell.layout.modifier.name();
    result["size"] = std::to_string(size.width) + "x" + std::to_string(size.height);
  }
  return result;
}

}  // namespace

Matrix try_matrix(const MatrixOptions& options, Progress& progress) {
  const Parties parties = find_parties(options, progress);
  Matrix matrix;
  for (const auto& user : parties.users) matrix.users.push_back(user->party);
  for (const auto& maker : parties.makers) {
    std::vector<Cell> row;
    for (const auto& user : parties.users) {
      if (!progress.next("trying memory of " + maker->party.label + " with " + user->party.id)) return matrix;
      row.push_back(try_cell(*maker, *user, options));
    }
    matrix.allocators.push_back(maker->party);
    matrix.cells.push_back(std::move(row));
  }
  return matrix;
}

Json as_json(const Matrix& matrix) {
  Json cells = Json::array();
  for (std::size_t row = 0; row < matrix.allocators.size(); ++row) {
    for (std::size_t column = 0; column < matrix.users.size(); ++column) {
      cells.push_back(cell_json(matrix.cells[row][column], matrix.allocators[row], matrix.users[column]));
    }
  }
  return {{"allocators", parties_json(matrix.allocators)},
          {"users", parties_json(matrix.users)},
          {"cells", std::move(cells)}};
}
