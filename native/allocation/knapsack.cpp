// One solve: labels over an expanding core. What comes before them is in knapsack_relaxed.cpp.
#include "allocation/knapsack.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace dyadiq {

namespace {

constexpr int kLossBits = 58;         // of the relaxed choice's loss; sums of a few such fit an int64
constexpr double kInf = std::numeric_limits<double>::infinity();

// To the nearest integer, halves to even: as numpy does in knapsack_numpy.py.
std::int64_t round_units(double value) { return static_cast<std::int64_t>(std::nearbyint(value)); }

struct Label {
    std::int64_t cost;  // above the relaxed choice
    std::int64_t loss;  // above the relaxed choice, in the solve's unit
    std::int32_t parent;
    std::int32_t option;  // position taken, into the core group's moves
};

struct Move {
    std::int32_t position;
    std::int64_t cost;  // against the relaxed position
    std::int64_t loss;
    double excess;  // loss + lam cost >= 0, reduced cost
};

struct CoreGroup {
    std::int32_t group;
    double key;               // least excess per change of cost
    std::vector<Move> moves;  // by rising cost, the relaxed position among them
};

// Sorts labels of rising cost into one list without dominated ones: cost strictly rises, loss strictly falls.
void merge_undominated(const std::vector<Label>& a, const std::vector<Label>& b, std::vector<Label>& out) {
    out.clear();
    std::size_t i = 0, j = 0;
    while (i < a.size() || j < b.size()) {
        const bool first = j == b.size() ||
            (i < a.size() && (a[i].cost < b[j].cost || (a[i].cost == b[j].cost && a[i].loss <= b[j].loss)));
        const Label& next = first ? a[i++] : b[j++];
        if (out.empty() || next.loss < out.back().loss) {
            out.push_back(next);
        }
    }
}

}  // namespace

KnapsackAnswer Knapsack::solve(
    std::int64_t capacity, std::int64_t max_labels, bool thin, const Fixed& fixed, double cutoff) const {
    KnapsackAnswer answer;
    const std::size_t n = groups_.size();
    answer.choice.assign(n, 0);
    const Relaxed start = relax(capacity, fixed);
    if (start.room < 0) {
        return answer;
    }
    answer.feasible = true;
    const std::vector<std::int32_t>& relaxed = start.positions;
    const std::int64_t room = start.room;
    const std::size_t broken = start.broken;
    answer.multiplier = start.multiplier;
    const double spread = start.spread;
    const auto publish = [&](const std::vector<std::int32_t>& positions) {
        for (std::size_t g = 0; g < n; ++g) {
            answer.choice[g] = groups_[g].index[static_cast<std::size_t>(positions[g])];
        }
    };
    if (broken == steps_.size()) {
        answer.unconstrained = true;
        answer.above = spread;
        publish(relaxed);
        return answer;
    }

    // The unit of losses: a power of two, from the loss of the relaxed choice above the least losses.
    const int shift = kLossBits - std::ilogb(spread) - 1;
    const double lam = std::ldexp(answer.multiplier, shift);
    const auto units = [&](std::size_t g, std::size_t position) {
        return std::ldexp(groups_[g].loss[position] - groups_[g].loss.back(), shift);
    };
    const double ceiling = std::ldexp(spread, shift);
    const double margin = kMargin * (ceiling + lam * static_cast<double>(room));

    // Greedy completion: the best known choice.
    std::vector<std::int32_t> best = relaxed;
    std::int64_t best_cost = 0, best_loss = 0;
    for (std::size_t i = broken; i < steps_.size(); ++i) {
        const auto g = static_cast<std::size_t>(steps_[i].group);
        const auto from = static_cast<std::size_t>(best[g]), to = static_cast<std::size_t>(steps_[i].position);
        const std::int64_t more = groups_[g].cost[to] - groups_[g].cost[from];
        if (!start.held[g] && to > from && more <= room - best_cost) {
            best_cost += more;
            best_loss += round_units(units(g, to)) - round_units(units(g, from));
            best[g] = steps_[i].position;
        }
    }

    // What is of no use: losses above the best known choice, the caller's or ours.
    const double others = std::ldexp(cutoff, shift);
    const double known = others - ceiling + kBranchMargin * (others + ceiling);
    const auto upper = [&] { return std::min(static_cast<double>(best_loss), known); };

    // The core: groups with another option within the distance of the bounds.
    const double reach = upper() + lam * static_cast<double>(room) + margin;
    std::vector<CoreGroup> core;
    std::int64_t widest = 0;
    for (std::size_t g = 0; g < n; ++g) {
        if (start.held[g]) {
            continue;
        }
        const auto at = static_cast<std::size_t>(relaxed[g]);
        const double at_loss = units(g, at);
        CoreGroup found{static_cast<std::int32_t>(g), kInf, {}};
        for (std::size_t o = 0; o < groups_[g].index.size(); ++o) {
            const double loss = units(g, o);
            if (o != at && loss > ceiling) {
                continue;  // alone above a known choice, and beyond the integers
            }
            const std::int64_t more = groups_[g].cost[o] - groups_[g].cost[at];
            const double excess = (loss - at_loss) + lam * static_cast<double>(more);
            if (o == at || excess <= reach) {
                found.moves.push_back(
                    {static_cast<std::int32_t>(o), more, round_units(loss) - round_units(at_loss), excess});
                if (o != at) {
                    found.key = std::min(found.key, std::max(0.0, excess) / std::abs(static_cast<double>(more)));
                }
            }
        }
        if (found.moves.size() > 1) {
            const std::int64_t width = found.moves.back().cost - found.moves.front().cost;
            if (width > widest) {
                widest = width;
                answer.widest = found.group;
                answer.positions = static_cast<std::int32_t>(groups_[g].index.size());
            }
            core.push_back(std::move(found));
        }
    }
    std::stable_sort(core.begin(), core.end(), [](const CoreGroup& a, const CoreGroup& b) { return a.key < b.key; });

    // What the groups from i on can do at best: save per cost added, lose per cost freed, free in all.
    std::vector<double> gain(core.size() + 1, 0.0), toll(core.size() + 1, kInf);
    std::vector<std::int64_t> freed(core.size() + 1, 0);
    for (std::size_t i = core.size(); i-- > 0;) {
        gain[i] = gain[i + 1];
        toll[i] = toll[i + 1];
        for (const Move& move : core[i].moves) {
            if (move.cost > 0) {
                gain[i] = std::max(gain[i], -static_cast<double>(move.loss) / static_cast<double>(move.cost));
            } else if (move.cost < 0) {
                toll[i] = std::min(toll[i], -static_cast<double>(move.loss) / static_cast<double>(move.cost));
            }
        }
        freed[i] = freed[i + 1] - std::min<std::int64_t>(0, core[i].moves.front().cost);
    }

    std::vector<std::vector<std::pair<std::int32_t, std::int32_t>>> trail;  // per group taken up: parent, move
    std::vector<Label> labels{{0, 0, -1, 0}}, merged, shifted, swap;
    std::int64_t best_depth = -1, best_label = -1;
    if (best_loss >= 0) {  // greedy found nothing better than the relaxed choice itself
        best_cost = best_loss = 0;
        best = relaxed;
    }
    double dropped = kInf;  // least bound of labels that were given up
    std::size_t depth = 0;
    for (; depth < core.size() && !labels.empty(); ++depth) {
        const double now = upper() + lam * static_cast<double>(room) + margin;
        merged.clear();
        bool any = false;
        for (std::size_t m = 0; m < core[depth].moves.size(); ++m) {
            const Move& move = core[depth].moves[m];
            if (move.excess > now && move.cost != 0) {
                continue;
            }
            shifted.clear();
            for (std::size_t i = 0; i < labels.size(); ++i) {
                const std::int64_t cost = labels[i].cost + move.cost;
                if (cost - freed[depth + 1] > room) {
                    break;  // costs rise
                }
                const std::int64_t loss = labels[i].loss + move.loss;
                // Its reduced cost alone: cheap, and keeps far labels out of the merge.
                if (static_cast<double>(loss) + lam * static_cast<double>(cost) <= now) {
                    shifted.push_back({cost, loss, static_cast<std::int32_t>(i), static_cast<std::int32_t>(m)});
                }
            }
            if (!any) {
                merged.swap(shifted);
                any = true;
            } else {
                merge_undominated(merged, shifted, swap);
                merged.swap(swap);
            }
        }
        // The best that is complete as it stands: the dearest label within the capacity has the least loss.
        bool improved = false;
        const auto over = std::partition_point(
            merged.begin(), merged.end(), [&](const Label& label) { return label.cost <= room; });
        if (over != merged.begin()) {
            const Label& found = *(over - 1);
            const bool better = found.loss < best_loss || (found.loss == best_loss && found.cost < best_cost);
            if (better && static_cast<double>(found.loss) <= known + margin) {  // others are of no use, and not kept
                best_loss = found.loss;
                best_cost = found.cost;
                improved = true;
            }
        }
        const auto bound = [&](const Label& label) {
            const auto left = static_cast<double>(room - label.cost);
            return static_cast<double>(label.loss) + (left >= 0 ? -left * gain[depth + 1] : -left * toll[depth + 1]);
        };
        const double limit = upper() + margin;
        labels.clear();
        std::int64_t best_at = -1;
        for (const Label& label : merged) {
            if (bound(label) <= limit) {
                if (improved && label.cost == best_cost) {
                    best_at = static_cast<std::int64_t>(labels.size());
                }
                labels.push_back(label);
            }
        }
        const bool too_many = static_cast<std::int64_t>(labels.size()) > max_labels;
        if (too_many && thin) {
            // Give up the least promising ones; the certificate says so.
            std::vector<std::size_t> order(labels.size());
            std::iota(order.begin(), order.end(), std::size_t{0});
            const auto middle = order.begin() + static_cast<std::ptrdiff_t>(max_labels);
            std::nth_element(order.begin(), middle, order.end(), [&](std::size_t a, std::size_t b) {
                const bool keep_a = static_cast<std::int64_t>(a) == best_at, keep_b = static_cast<std::int64_t>(b) == best_at;
                if (keep_a != keep_b) {
                    return keep_a;
                }
                const double bound_a = bound(labels[a]), bound_b = bound(labels[b]);
                return bound_a != bound_b ? bound_a < bound_b : a < b;
            });
            for (auto it = middle; it != order.end(); ++it) {
                dropped = std::min(dropped, bound(labels[*it]));
            }
            order.erase(middle, order.end());
            std::sort(order.begin(), order.end());
            std::vector<Label> kept;
            kept.reserve(order.size());
            for (const std::size_t i : order) {
                if (static_cast<std::int64_t>(i) == best_at) {
                    best_at = static_cast<std::int64_t>(kept.size());
                }
                kept.push_back(labels[i]);
            }
            labels.swap(kept);
        }
        if (improved) {
            best_depth = static_cast<std::int64_t>(depth);
            best_label = best_at;
        }
        answer.labels = std::max(answer.labels, static_cast<std::int64_t>(labels.size()));
        auto& step = trail.emplace_back();
        step.reserve(labels.size());
        for (const Label& label : labels) {
            step.emplace_back(label.parent, label.option);
        }
        if (too_many && !thin) {
            answer.proven = false;
            break;
        }
    }
    answer.core = static_cast<std::int64_t>(trail.size());
    if (best_depth >= 0) {
        best = relaxed;
        std::int64_t at = best_label;
        for (std::int64_t d = best_depth; d >= 0; --d) {
            const auto [parent, move] = trail[static_cast<std::size_t>(d)][static_cast<std::size_t>(at)];
            const CoreGroup& taken = core[static_cast<std::size_t>(d)];
            best[static_cast<std::size_t>(taken.group)] = taken.moves[static_cast<std::size_t>(move)].position;
            at = parent;
        }
    }
    publish(best);
    answer.above = std::ldexp(ceiling + static_cast<double>(best_loss), -shift);
    if (dropped < static_cast<double>(best_loss)) {
        answer.proven = false;
        answer.slack = std::ldexp(static_cast<double>(best_loss) - dropped + margin, -shift);
    }
    return answer;
}

}  // namespace dyadiq
