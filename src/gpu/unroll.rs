//! Loops that a kernel asks to be unrolled: `@unroll for (var i = 0u; i < N; i++)` becomes its body N times, each time with
//! `const i`. Drivers keep an array in registers only where every index is a constant, and some leave large loops as
//! they are: llvmpipe of Mesa 25.0 then moves every number of it through memory, invocation by invocation.

use std::collections::HashMap;

use wesl::syntax::{
    Attribute, BinaryOperator, CompoundStatement, Declaration, DeclarationKind, Expression, ExpressionNode,
    ForStatement, GlobalDeclaration, LiteralExpression, Statement, StatementNode, TranslationUnit,
};

/// Constants of a shader by name.
type Constants = HashMap<String, ExpressionNode>;

/// Unrolls all loops of a linked shader that ask for it.
///
/// # Errors
/// The loop, where it does not count from zero up to a constant.
pub(super) fn unroll(shader: &mut TranslationUnit) -> Result<(), String> {
    let constants = shader.global_declarations.iter().filter_map(|global| match global.node() {
        GlobalDeclaration::Declaration(Declaration {
            kind: DeclarationKind::Const,
            ident,
            initializer: Some(value),
            ..
        }) => Some((ident.name().clone(), value.clone())),
        _ => None,
    });
    let constants: Constants = constants.collect();
    for global in &mut shader.global_declarations {
        if let GlobalDeclaration::Function(function) = global.node_mut() {
            unroll_in(&mut function.body, &constants)?;
        }
    }
    Ok(())
}

fn unroll_in(body: &mut CompoundStatement, constants: &Constants) -> Result<(), String> {
    for statement in &mut body.statements {
        match statement.node_mut() {
            Statement::Compound(block) => unroll_in(block, constants)?,
            Statement::If(condition) => {
                let others = condition.else_if_clauses.iter_mut().map(|clause| &mut clause.body);
                let last = condition.else_clause.iter_mut().map(|clause| &mut clause.body);
                for body in [&mut condition.if_clause.body].into_iter().chain(others).chain(last) {
                    unroll_in(body, constants)?;
                }
            }
            Statement::For(counted) => {
                unroll_in(&mut counted.body, constants)?;
                if counted.attributes.iter().any(|attribute| is_unroll(attribute.node())) {
                    let unrolled = unrolled(counted, constants).ok_or_else(|| counted.to_string())?;
                    *statement.node_mut() = Statement::Compound(unrolled);
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn is_unroll(attribute: &Attribute) -> bool {
    matches!(attribute, Attribute::Custom(custom) if custom.name == "unroll")
}

/// The body once for each value of the counter, or nothing if it is no such loop.
fn unrolled(counted: &ForStatement, constants: &Constants) -> Option<CompoundStatement> {
    let Statement::Declaration(counter) = counted.initializer.as_ref()?.node() else { return None };
    let Expression::Binary(condition) = counted.condition.as_ref()?.node() else { return None };
    let Statement::Increment(step) = counted.update.as_ref()?.node() else { return None };
    let name = counter.ident.name();
    let is_counter = |expression: &Expression| matches!(expression, Expression::TypeOrIdentifier(other) if *other.ident.name() == *name);
    let counts = is_counter(step.expression.node())
        && is_counter(condition.left.node())
        && condition.operator == BinaryOperator::LessThan
        && value(counter.initializer.as_ref()?, constants) == Some(0);
    let turn = |index| {
        let mut body = counted.body.clone();
        let constant = format!("const {name} = {index}u;").parse().expect("a declaration");
        body.statements.insert(0, StatementNode::new(constant, Default::default()));
        StatementNode::new(Statement::Compound(body), Default::default())
    };
    let count = value(&condition.right, constants).filter(|_| counts)?;
    Some(CompoundStatement { attributes: Vec::new(), statements: (0..count).map(turn).collect() })
}

/// What an expression of numbers and constants comes to.
fn value(expression: &ExpressionNode, constants: &Constants) -> Option<u32> {
    match expression.node() {
        Expression::Literal(LiteralExpression::U32(number)) => Some(*number),
        Expression::Parenthesized(inner) => value(&inner.expression, constants),
        Expression::TypeOrIdentifier(name) => value(constants.get(&*name.ident.name())?, constants),
        Expression::Binary(binary) => {
            let (left, right) = (value(&binary.left, constants)?, value(&binary.right, constants)?);
            match binary.operator {
                BinaryOperator::Addition => left.checked_add(right),
                BinaryOperator::Subtraction => left.checked_sub(right),
                BinaryOperator::Multiplication => left.checked_mul(right),
                BinaryOperator::Division => left.checked_div(right),
                _ => None,
            }
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(loops: &str) -> Result<String, String> {
        let shader = format!("const N = 2u; const HALF = (N + 1u) / N; fn f() {{ {loops} }}");
        let mut shader: TranslationUnit = shader.parse().unwrap();
        unroll(&mut shader)?;
        Ok(shader.global_declarations[2].to_string().split_whitespace().collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn loops_that_ask_are_unrolled_wherever_they_are() {
        let nested = "if a { @unroll for (var i = 0u; i < N; i++) { for (var j = 0u; j < N; j++) { \
                      @unroll for (var k = 0u; k < N - HALF; k++) { x[i] = k; } } } }";
        let inner = "for (var j = 0u; j < N; j++) { { { const k = 0u; x[i] = k; } } }";
        let both = [0, 1].map(|i| format!("{{ const i = {i}u; {inner} }}")).join(" ");
        assert_eq!(of(nested).unwrap(), format!("fn f() {{ if a {{ {{ {both} }} }} }}"));
    }

    #[test]
    fn what_counts_otherwise_is_refused() {
        for counted in [
            "var i = 1u; i < N; i++",
            "var i = 0u; i < n; i++",
            "var i = 0u; i <= N; i++",
            "var i = 0u; i < N; i += 2u",
            "var i = 0u; j < N; i++",
            "var i = 0u; i < N - 3u; i++",
            "; ; ",
        ] {
            let error = of(&format!("@unroll for ({counted}) {{ }}")).unwrap_err();
            assert!(error.contains("for ("), "{error}");
        }
    }
}
